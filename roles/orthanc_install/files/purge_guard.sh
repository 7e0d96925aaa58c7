#!/bin/sh
# From the release 1.12.11+dfsg-8 on, purging Debian's package orthanc removes /var/lib/orthanc with all images. dpkg runs
# this before each of its actions (/etc/dpkg/dpkg.cfg.d/clinicops-orthanc); $1 is the process of dpkg. Exit code 1 ends
# dpkg before anything changes.
[ "$DPKG_HOOK_ACTION" = purge ] || exit 0

# whether this dpkg is told to purge the package, by its name or as one of those that wait for it
named=no
for word in $(tr '\0' ' ' < "/proc/$1/cmdline"); do
  case $word in
    orthanc | orthanc:*) named=yes ;;
    -a | --pending)
      [ "$(dpkg-query --show --showformat '${db:Status-Want}' orthanc 2>/dev/null)" != purge ] || named=yes ;;
  esac
done
[ "$named" = yes ] || exit 0

# an image of Orthanc's, or its index
found=$(find /var/lib/orthanc \( -name index -o -name '????????-????-????-????-????????????' \) -type f -print -quit 2>/dev/null)
[ -n "$found" ] || exit 0
cat >&2 <<END
The package orthanc is not purged, because that would remove the images in /var/lib/orthanc ($found).
Remedy: apt remove orthanc removes the program and keeps the images. To remove them as well, move them away first.
END
exit 1
