"""The emulator with our patches of S3 and no more of the cloud: a local S3 for tests that need nothing else.

Its address is in GATEWAY_PORT and BIND_HOST, as the emulator reads it; everything else is launcher.py's.
"""

import launcher

launcher.assert_pinned()

from ministack.app import main  # noqa: E402  it reads the environment at import

from patches import s3  # noqa: E402

s3.install()
main()
