"""The inner side of the sandbox: a script that turns its process into the jail.

    sandbox (outside) -> this script: new namespaces -> process 1: file system, deadline
                                                      -> the program: no rights, limits, filter

Process 1 of the jail stays trusted: the kernel ends everything in the jail with it, and it ends at
the deadline or with this script. The script is run by path, uses only the standard library and is
never imported. It writes errors before the program's start to stderr. Linux on x86-64 and arm64.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from types import FrameType
from typing import Any, NoReturn

NOBODY = 65_534
NONCE_FD, RESULT_FD = 3, 4
EXIT_TIMEOUT = 3

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>, <linux/seccomp.h>
NEW_NAMESPACES = (
    0x00020000 | 0x08000000 | 0x04000000 | 0x20000000 | 0x40000000
)  # NS IPC UTS PID NET
NEW_USER = 0x10000000
NEW_ANY = 0x7E020000 | 0x80
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2
SYS_MOUNT_SETATTR = 442  # the same on every architecture
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026

# Audit architecture, clone, clone3, and the refused calls: shared memory that no limit bounds,
# other processes, mounts, namespaces, and kernel interfaces that Python does not need.
# Order: shmget shmctl shmat semget msgget mq_open memfd_create memfd_secret ptrace
# process_vm_readv process_vm_writev unshare setns mount umount2 pivot_root chroot
# open_by_handle_at io_uring_setup bpf perf_event_open userfaultfd keyctl add_key request_key
# kexec_load init_module finit_module
FILTERS = {
    "x86_64": (
        *(0xC000003E, 56, 435),
        (
            *(29, 31, 30, 64, 68, 240, 319, 447, 101, 310, 311, 272, 308, 165, 166, 155, 161),
            *(304, 425, 321, 298, 323, 250, 248, 249, 246, 175, 313),
        ),
    ),
    "aarch64": (
        *(0xC00000B7, 220, 435),
        (
            *(194, 195, 196, 190, 186, 180, 279, 447, 117, 270, 271, 97, 268, 40, 39, 41, 51),
            *(265, 425, 280, 241, 282, 219, 217, 218, 104, 105, 273),
        ),
    ),
}

# The nonce is read only after the program's end; a program that ends in another way leaves no
# answer, or the name of its exception.
RUNNER = f"""
import os
with open("program.py", encoding="utf-8", errors="surrogatepass") as file:
    text = file.read()
try:
    exec(compile(text, "program.py", "exec"), {{"__name__": "__main__"}})
except BaseException as error:
    outcome = type(error).__name__
else:
    outcome = "passed"
os.write({RESULT_FD}, os.read({NONCE_FD}, 64) + outcome[:64].encode("utf-8", "replace"))
os._exit(0)
"""

LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Runs one program; returns 0 after its end, or EXIT_TIMEOUT if its time was over."""
    options = json.loads(sys.argv[1])
    with open(os.path.join(options["folder"], "program.py"), "rb") as file:
        program = file.read()
    _die_with_parent()
    if not options["isolated"]:
        _become(options, options["folder"])
    _enter_namespaces()
    first = os.fork()
    if first == 0:
        _be_first(options, program)
    os.close(options["nonce_fd"])
    os.close(options["result_fd"])
    _, status = os.waitpid(first, 0)
    return abs(os.waitstatus_to_exitcode(status))


def _enter_namespaces() -> None:
    """Leaves the network; children see no processes and mounts of others."""
    if os.geteuid() == 0:
        _call("unshare", NEW_NAMESPACES)
        return
    user, group = os.getuid(), os.getgid()
    _call("unshare", NEW_NAMESPACES | NEW_USER)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{NOBODY} {user} 1")
    _write("/proc/self/gid_map", f"{NOBODY} {group} 1")


def _be_first(options: dict[str, Any], program: bytes) -> NoReturn:
    """Process 1 of the jail: builds it, starts the program, ends with it or at the deadline."""
    try:
        _die_with_parent()
        _write("/proc/self/oom_score_adj", "1000")  # ended first if memory runs out
        _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
        _build_jail(options, program)
        signal.signal(signal.SIGALRM, _end)
        signal.setitimer(signal.ITIMER_REAL, options["seconds"] + 1)
        child = os.fork()
        if child == 0:
            _become(options, "/")
        os.close(options["nonce_fd"])
        os.close(options["result_fd"])
        os.close(2)
        ended, status = os.wait()
        while ended != child:
            ended, status = os.wait()
        out_of_time = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
        os._exit(EXIT_TIMEOUT if out_of_time else 0)
    except BaseException as error:
        _fail(error)


def _build_jail(options: dict[str, Any], program: bytes) -> None:
    """Makes a file system of Python alone the root: read-only, with a small folder in memory."""
    folder = options["folder"]
    jail = folder + "/jail"
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for name in ("/old", "/jail", "/jail/tmp", "/jail/dev"):
        os.mkdir(folder + name)
    for path in options["read_only"]:
        _bind(path, jail + path)
        _set_attributes(jail + path, MS_RDONLY | MS_NOSUID | MS_NODEV, AT_RECURSIVE)
    for path in ("/dev/null", "/dev/zero", "/dev/urandom"):
        _bind(path, jail + path)
    for path, target in options["links"]:
        os.makedirs(os.path.dirname(jail + path), exist_ok=True)
        os.symlink(target, jail + path)
    with open(jail + "/program.py", "wb") as file:
        file.write(program)
    _set_attributes(folder, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    _mount("tmpfs", jail + "/tmp", "tmpfs", flags, f"size={options['disk']},nr_inodes=1k,mode=1777")
    _call("pivot_root", folder.encode(), (folder + "/old").encode())
    os.chdir("/")
    _call("umount2", b"/old", MNT_DETACH)
    # With a root below the namespace's own, no process in it can create user namespaces.
    os.chroot("/jail")
    os.chdir("/tmp")


def _bind(path: str, target: str) -> None:
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb"):
            pass
    _mount(path, target, None, MS_BIND | MS_REC)


def _become(options: dict[str, Any], program_folder: str) -> NoReturn:
    """Gives up every right and becomes the program's interpreter."""
    try:
        # Through high numbers, so that neither copy closes the other's original.
        nonce, result = (
            os.dup2(options[name], 100 + options[name]) for name in ("nonce_fd", "result_fd")
        )
        os.dup2(nonce, NONCE_FD)
        os.dup2(result, RESULT_FD)
        _limit(options)
        if options["isolated"] and os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        if options["isolated"]:
            _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            _filter_calls()
        else:
            os.chdir(options["folder"])
        runner = RUNNER.replace('"program.py"', repr(os.path.join(program_folder, "program.py")), 1)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(RESULT_FD + 1, 1024)
        python = options["python"]
        os.execve(python, [python, "-I", "-S", "-B", "-c", runner], {})
    except BaseException as error:
        _fail(error)


def _limit(options: dict[str, Any]) -> None:
    """Sets the kernel's limits for this process and the program that it becomes."""
    limits = {
        "RLIMIT_AS": options["memory"],
        "RLIMIT_FSIZE": options["disk"],
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_NPROC": options["processes"],
    }
    seconds = int(options["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for name, value in limits.items():
        # Without a user namespace this counts every process of the user.
        if hasattr(resource, name) and (options["isolated"] or name != "RLIMIT_NPROC"):
            resource.setrlimit(getattr(resource, name), (value, value))


def _filter_calls() -> None:
    """Installs the seccomp filter: a classic BPF program over (call, architecture, arguments)."""
    architecture, clone, clone3, refused = FILTERS[platform.machine()]
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    code = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (end, 0, 0, KILL),
        (load, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),  # x86-64's second table of calls
        (end, 0, 0, EPERM),
        (equal, 0, 1, clone3),
        (end, 0, 0, ENOSYS),  # its flags cannot be read here; the C library then uses clone
    ]
    for number in refused:
        code += [(equal, 0, 1, number), (end, 0, 0, EPERM)]
    code += [
        (equal, 0, 3, clone),
        (load, 0, 0, 16),
        (any_bit, 0, 1, NEW_ANY & ~0x01000000),
        (end, 0, 0, EPERM),
        (end, 0, 0, ALLOW),
    ]
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(packed)
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind and kind.encode())
    _call("mount", *arguments, ctypes.c_ulong(flags), data.encode())


def _set_attributes(path: str, attributes: int, flags: int) -> None:
    """mount_setattr(2), Linux 5.12; its first four attributes have mount's own values."""
    wanted = struct.pack("4Q", attributes, 0, 0, 0)
    arguments = (ctypes.c_int(AT_FDCWD), path.encode(), ctypes.c_uint(flags), wanted)
    _call("syscall", ctypes.c_long(SYS_MOUNT_SETATTR), *arguments, ctypes.c_size_t(32))


def _call(name: str, *arguments: Any) -> None:
    if getattr(LIBC, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    os._exit(EXIT_TIMEOUT)


def _fail(error: BaseException) -> NoReturn:
    os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as failure:
        _fail(failure)
