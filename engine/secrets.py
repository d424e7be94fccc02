"""The names of files that usually hold secrets, and the matching of paths against globs.

The language server suggests nothing in such files, and training reads none of them. Torch-free;
reads no file.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

_DATA = ("", ".json", ".yml", ".yaml", ".toml", ".ini", ".cfg", ".conf", ".xml", ".txt", ".csv")
_COPIES = ("", ".pub", ".bak", ".old", ".orig")
SECRET_GLOBS = (
    *(".env", ".env.*", "*.env", ".envrc", ".dev.vars"),
    *("*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ovpn"),
    *("*.gpg", "*.asc", "*.age"),
    *(f"id_{kind}{end}" for kind in ("rsa", "dsa", "ecdsa", "ed25519") for end in _COPIES),
    *(f"{stem}{end}" for stem in ("credentials", "credential", "secrets") for end in _DATA),
    *("client_secret*.json", "service[-_]account*.json", "*.tfvars", "*.tfstate"),
    *(".netrc", "_netrc", ".npmrc", ".pypirc", ".pgpass", ".my.cnf", ".htpasswd"),
    *(".git-credentials", ".vault-token", ".dockercfg", ".s3cfg", "kubeconfig"),
    *(".ssh/**", ".aws/**", ".gnupg/**", ".azure/**", ".kube/**", ".docker/config.json"),
)


def is_secret(path: str) -> bool:
    """Whether a file with this path usually holds secrets."""
    return any(matches(path, glob) for glob in SECRET_GLOBS)


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
    if not glob.startswith("/"):
        parts.insert(0, "**")
    if glob.endswith("/"):
        parts.append("**")
    reached = _past_stars({0}, parts)
    for name in path.lower().split("/"):
        if name:
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
    has_wildcard = any(character in part for character in "*?[")
    return fnmatchcase(name, part) if has_wildcard else name == part
