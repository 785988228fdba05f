"""An object store on this machine: moto's S3 server, in a thread. Needs the package `moto[server]`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

BUCKET = "bucket"


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Serve an empty bucket inside a `with` block, and set the environment by which s3fs finds it.

    Yields:
        the bucket's URL.
    """
    from moto.server import ThreadedMotoServer

    from fairseq import stores

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    ours = {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        fs = stores.filesystem(f"s3://{BUCKET}")
        fs.clear_instance_cache()  # clients of an earlier address
        stores.filesystem(f"s3://{BUCKET}").mkdir(BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
