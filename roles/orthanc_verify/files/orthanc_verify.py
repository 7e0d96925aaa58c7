#!/usr/bin/python3
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts orthanc-verify, whose files lie beside each other without being installed."""

import sys

sys.dont_write_bytecode = True  # an older file's would stay
sys.path.insert(0, "/usr/local/lib/orthanc-verify")

from orthanc_verify.verify import main  # noqa: E402 - the path comes first

sys.exit(main())
