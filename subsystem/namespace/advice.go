package namespace

import (
	"bytes"
	"os"
	"syscall"
)

// namespaceAdvice says what forbids user namespaces here.
func namespaceAdvice() string {
	for _, k := range []struct{ file, bad, advice string }{
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
			"AppArmor restricts user namespaces: give nexec-server a profile with userns, or set kernel.apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "set kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "raise user.max_user_namespaces"},
		{"/proc/sys/user/max_mnt_namespaces", "0", "raise user.max_mnt_namespaces"},
		{"/proc/sys/user/max_pid_namespaces", "0", "raise user.max_pid_namespaces"},
	} {
		b, err := os.ReadFile(k.file)
		if err == nil && string(bytes.TrimSpace(b)) == k.bad {
			return k.advice
		}
	}
	return "a container or security policy forbids it"
}

// fuseAdvice says what to do about a /dev/fuse that cannot be opened.
func fuseAdvice(errno syscall.Errno) string {
	switch errno {
	case syscall.ENOENT:
		return "is the fuse kernel module there? try modprobe fuse"
	case syscall.ENODEV, syscall.ENXIO:
		return "try modprobe fuse"
	case syscall.EACCES, syscall.EPERM:
		return "every user must be able to open it: chmod 666 /dev/fuse, or give the container the device"
	}
	return ""
}
