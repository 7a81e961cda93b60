package fusedev

import (
	"encoding/binary"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Notifications to the kernel, of linux/fuse.h. Each may wait for a request
// under way, which is therefore never one that the caller is to answer.
const (
	notifyInvalInode = 2
	notifyInvalEntry = 3
	notifyStore      = 4
)

// InvalidateInode makes the kernel forget the attributes of an inode and, with
// pages, its content.
func (d *Device) InvalidateInode(ino uint64, pages bool) error {
	off := int64(-1) // less than zero: the attributes only
	if pages {
		off = 0
	}
	b := message(notifyInvalInode, 24)
	b = binary.NativeEndian.AppendUint64(b, ino)
	b = binary.NativeEndian.AppendUint64(b, uint64(off))
	b = binary.NativeEndian.AppendUint64(b, 0) // to the end
	return d.notifies(b)
}

// InvalidateEntry takes a name out of the kernel's cache, or makes the kernel
// ask again what it leads to: a Linux before 6.2 takes it out all the same.
func (d *Device) InvalidateEntry(parent uint64, name string, expire bool) error {
	flags := uint32(0)
	if expire {
		flags = fuse.EXPIRE_ONLY
	}
	b := message(notifyInvalEntry, 16+len(name)+1)
	b = binary.NativeEndian.AppendUint64(b, parent)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return d.notifies(append(append(b, name...), 0))
}

// StoreContent puts data into the kernel's cache as the content of an inode from
// offset zero on.
func (d *Device) StoreContent(ino uint64, data []byte) error {
	const fields = 24
	b := message(notifyStore, fields)
	binary.NativeEndian.PutUint32(b, uint32(outHeaderSize+fields+len(data)))
	b = binary.NativeEndian.AppendUint64(b, ino)
	b = binary.NativeEndian.AppendUint64(b, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(data)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	return d.notifies(b, data)
}

// message begins a notification whose fields take n bytes.
func message(code uint32, n int) []byte {
	b := make([]byte, 0, outHeaderSize+n)
	b = binary.NativeEndian.AppendUint32(b, uint32(outHeaderSize+n))
	b = binary.NativeEndian.AppendUint32(b, code)
	return binary.NativeEndian.AppendUint64(b, 0)
}

// notifies gives a notification to the kernel. ENOENT: it does not know the
// inode or the name anyway; ENODEV: the mount is gone; EBADF: after Close.
func (d *Device) notifies(iov ...[]byte) error {
	d.closing.RLock()
	defer d.closing.RUnlock()
	if d.notify < 0 {
		return syscall.EBADF
	}
	_, err := unix.Writev(d.notify, iov)
	return err
}

// interrupt is the kernel's word that nobody waits for a request any more.
func interrupt(unique uint64) []byte {
	const length = uint32(inHeaderSize + 8)
	native := binary.NativeEndian
	b := make([]byte, length)
	native.PutUint32(b, length)
	native.PutUint32(b[4:], opInterrupt)
	native.PutUint64(b[inHeaderSize:], unique)
	return b
}
