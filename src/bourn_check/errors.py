"""What can be wrong with a certificate, as seen from outside: it proves something else or nothing, or it cannot be read."""


class NotAProof(Exception):
    """The certificate is no proof of this question; the message says where it fails."""


class Unreadable(Exception):
    """A file could not be read, or holds what the checker does not know; the message says where."""
