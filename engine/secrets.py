"""The names of files that usually hold secrets, and the matching of paths against globs.

The language server suggests nothing in such files, and training reads none of them. Torch-free;
reads no file.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

_TABLES = (".json", ".yml", ".yaml", ".toml", ".ini", ".cfg", ".conf", ".xml", ".properties")
_DATA = ("", *_TABLES, ".txt", ".csv", ".enc")
_COPIES = ("", ".pub", ".bak", ".old", ".orig")
_KEYS = ("rsa", "dsa", "ecdsa", "ed25519", "ecdsa_sk", "ed25519_sk")
_STEMS = ("credentials", "credential", "secrets", "secret")
SECRET_GLOBS = (
    *(".env", ".env.*", ".env-*", ".env_*", "*.env", "*.env.*", ".envrc", ".dev.vars", ".renviron"),
    *("*.pem", "*.key", "*.ppk", "*.p8", "*.p12", "*.pkcs12", "*.pfx", "*.jks", "*.keystore"),
    *("*.kdbx", "*.ovpn", "*.keytab", "*.gpg", "*.asc", "*.age"),
    *(f"id_{kind}{end}" for kind in _KEYS for end in _COPIES),
    "ssh_host_*_key",
    *(f"{stem}{end}" for stem in _STEMS for end in _DATA),
    *(f"*[-_.]{stem}{end}" for stem in _STEMS for end in _TABLES),
    # Code may lie in such a folder, but data there is secret.
    *(f"{folder}/**/*{end}" for folder in ("secret", "secrets") for end in (*_TABLES, ".txt")),
    *(".secret", ".secrets", ".secrets/**", ".password", ".passwd", "passwords.txt"),
    *("client_secret*.json", "service[-_]account*.json", "*firebase-adminsdk*.json"),
    *(
        "*.tfvars",
        "*.tfvars.json",
        "*.tfstate",
        "*.tfstate.*",
        ".terraformrc",
        "local.settings.json",
    ),
    *(".netrc", "_netrc", ".authinfo", ".npmrc", ".pypirc", ".pgpass", "pgpass.conf", ".my.cnf"),
    *(".mylogin.cnf", ".htpasswd", ".git-credentials", ".vault-token", ".vault_pass*"),
    *(".dockercfg", ".s3cfg", ".boto", ".databrickscfg", "kubeconfig", "*.kubeconfig"),
    *(".ssh/**", ".aws/**", ".gnupg/**", ".azure/**", ".kube/**", ".docker/config.json"),
    *(".config/gcloud/**", ".config/gh/hosts.yml", ".cargo/credentials*"),
)
# Files that show which secrets belong where and hold none, and declarations of types.
_HARMLESS = (
    *(f"*.env*{end}" for end in (".example", ".sample", ".template", ".tmpl", ".dist")),
    *(f"*.env[-_]{end}" for end in ("example", "sample", "template")),
    *("example.env", "sample.env", "template.env", "*.env.d.ts", "*.env.ts", "*.env.js"),
)


@lru_cache(maxsize=256)
def is_secret(path: str) -> bool:
    """Whether a file with this path usually holds secrets."""
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    found = [glob for glob in SECRET_GLOBS if matches(path, glob)]
    is_harmless = any(matches(name, glob) for glob in _HARMLESS)
    # What a folder makes secret is so under any name.
    return bool(found) and not (is_harmless and all("/" not in glob for glob in found))


def matches(path: str, glob: str) -> bool:
    """Whether a path matches a glob, at any depth and ignoring case.

    `*`, `?` and `[…]` match within one name, and `**` matches any number of names. A glob that
    starts with / must match from the root. So `*.md` matches every such file, and `vendor/**`
    everything below a folder of that name. The time is proportional to the number of names times
    the number of the glob's parts.
    """
    parts = [part for part in glob.lower().replace("\\", "/").split("/") if part]
    if not glob:
        return False
    names = [name for name in path.lower().split("/") if name]
    if not parts or not names:
        return all(part == "**" for part in parts)
    if not _has_wildcard(parts[0]) and parts[0] not in names:
        return False  # Which is so of nearly all globs, however many names there are.
    if len(parts) == 1 and "/" not in glob and parts[0] != "**":
        return _fits(names[-1], parts[0])
    if not glob.startswith("/"):
        parts.insert(0, "**")
    if glob.endswith("/"):
        parts.append("**")
    reached = _past_stars({0}, parts)
    for name in names:
        following = {at + 1 for at in reached if at < len(parts) and _fits(name, parts[at])}
        staying = {at for at in reached if at < len(parts) and parts[at] == "**"}
        reached = _past_stars(following | staying, parts)
    return len(parts) in reached


def _past_stars(reached: set[int], parts: list[str]) -> set[int]:
    """Adds the place after each `**` that has been reached, since `**` may match no name."""
    for at, part in enumerate(parts):
        if part == "**" and at in reached:
            reached.add(at + 1)
    return reached


def _fits(name: str, part: str) -> bool:
    return fnmatchcase(name, part) if _has_wildcard(part) else name == part


def _has_wildcard(part: str) -> bool:
    return any(character in part for character in "*?[")
