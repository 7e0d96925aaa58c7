# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """What a module must know of the Orthanc that a deploy takes over."""

    DOCUMENTATION = r"""
options:
  adopt:
    description: The Orthanc that the deploy takes over, as the setting C(orthanc_adopt).
    type: dict
    suboptions:
      method:
        description: How it runs, as the unit of the package or as a container.
        type: str
        choices: [package, container]
      container:
        description: The name of its container.
        type: str
        default: ""
      storage_dir:
        description: Directory of its images.
        type: path
      index_dir:
        description: Directory of its index, if it is another one.
        type: path
      sites:
        description: Sites of nginx that lead to it.
        type: list
        elements: path
        default: []
"""
