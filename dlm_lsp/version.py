"""The version of the program and of the host's wire protocol."""

VERSION = "0.1.0"

# This number changes when a client and a host of different versions could misunderstand each other.
PROTOCOL = 5
