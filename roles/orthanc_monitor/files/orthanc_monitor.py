# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts orthanc-monitor, which is part of the server package."""

import sys

sys.path.insert(0, "/usr/local/lib/clinicops-orthanc")

from server.monitor.cli import main

sys.exit(main())
