#!/bin/sh
# First program of machines that log their own writes (rdinit=), before the image's: puts the kernel's dm-log-writes
# over the first disk, with the second one as its log. The root file system is /dev/dm-0 then.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LD_LIBRARY_PATH=/usr/lib/dmsetup DM_DISABLE_UDEV=1

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /usr/lib/modules/order); do
    insmod "/usr/lib/modules/$module.ko" || echo "guest-log: cannot load the driver $module"
done
# They are loaded; the image's own first program need not try again.
: >/usr/lib/modules/order
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vdb ] && break
    sleep 1
done
sectors=$(cat /sys/class/block/vda/size)
if ! dmsetup create logged --table "0 $sectors log-writes /dev/vda /dev/vdb" || ! [ -b /dev/dm-0 ]; then
    echo "guest-log: cannot set up dm-log-writes"
    # The kernel panics when its first program ends, and the machine with it.
    exit 1
fi
umount /dev /sys /proc
exec /init
