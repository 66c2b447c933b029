#!/usr/bin/env bash
#
# Proves the two commands of the README on a bare system: clones HEAD into a tree that holds nothing but a
# base system, and runs both there, twice.  Needs root.
#
#   debootstrap --variant=minbase bookworm TREE       (or noble, with an Ubuntu mirror as third argument)
#   scripts/try-minbase.sh TREE
#
# The tree is changed: packages are installed in it.  Its own apt configuration must work.

set -euo pipefail
[ $# -eq 1 ] && [ -x "$1/usr/bin/apt-get" ] || { sed -n '3,9s/^# \{0,1\}//p' "$0"; exit 2; }
tree=$(readlink -f "$1")
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
mounted=()

leave() {
    local point
    for point in "${mounted[@]}"; do
        umount "$point" || umount --lazy "$point"
    done
}
trap leave EXIT
for kind in proc sysfs; do
    point=$tree/${kind%fs}
    if ! mountpoint -q "$point"; then
        mount -t $kind $kind "$point" && mounted+=("$point")
    fi
done

rm -rf "$tree/root/epfuse"
git clone -q --no-hardlinks "$repository" "$tree/root/epfuse"
rm -rf "$tree/root/epfuse/.git" # a bare system has no git, and the build must not ask for it
echo "packages before: $(chroot "$tree" dpkg-query -W | wc -l)"

status=0
run() {
    local start=$SECONDS code=0
    chroot "$tree" env -i HOME=/root TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        bash -c 'cd /root/epfuse && exec ./epf "$@"' epf "$@" </dev/null || code=$?
    printf -- '--- ./epf %s: exit %d after %d s\n' "$*" $code $((SECONDS - start))
    [ $code -eq 0 ] || status=1
}
run sample
run test
run sample
run test
echo "packages after: $(chroot "$tree" dpkg-query -W | wc -l)"
exit $status
