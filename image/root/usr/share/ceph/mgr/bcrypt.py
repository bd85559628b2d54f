"""Stands in for the bcrypt extension inside ceph-mgr.

Debian's bcrypt is built with PyO3, which refuses every sub-interpreter after the
first; ceph-mgr runs each module in one, and mgr_util imports bcrypt, so that
thirteen modules, balancer and rbd_support among them, would not load. Only the
dashboard and restful modules hash passwords; neither is used here.
"""


def _unavailable(*_args, **_kwargs):
    raise NotImplementedError("cannot hash a password: bcrypt is not available inside ceph-mgr")


checkpw = gensalt = hashpw = kdf = _unavailable
