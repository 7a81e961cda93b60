package fmaster

import (
	"bytes"
	"testing"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func TestJoined(t *testing.T) {
	set := func(mask fsyscall.SetMask) *fsyscall.SetAttr {
		return &fsyscall.SetAttr{ID: 7, Mask: mask, Mode: 0o640, UID: 1, GID: 2, Size: 3, Atime: fsyscall.Time{Sec: 4}, Mtime: fsyscall.Time{Sec: 5}}
	}
	write := func(off uint64, data string) *fsyscall.Write {
		return &fsyscall.Write{File: 3, Off: off, Data: []byte(data)}
	}
	const times, owner = fsyscall.SetAtime | fsyscall.SetMtime, fsyscall.SetUID | fsyscall.SetGID
	other, appended, otherFile := set(owner), write(3, "d"), write(3, "d")
	other.ID, appended.Append, otherFile.File = 8, true, 4
	for name, c := range map[string]struct{ first, next, want fsyscall.Message }{
		"times, owner":           {set(times), set(owner), set(times | owner)},
		"owner, mode":            {set(owner), set(fsyscall.SetMode), set(owner | fsyscall.SetMode)},
		"size, times":            {set(fsyscall.SetSize), set(times), set(fsyscall.SetSize | times)},
		"mode, then owner":       {set(fsyscall.SetMode), set(owner), nil},
		"mode twice":             {set(fsyscall.SetMode), set(fsyscall.SetMode), nil},
		"then size":              {set(times), set(fsyscall.SetSize), nil},
		"now":                    {set(fsyscall.SetMtimeNow), set(owner), nil},
		"another file's":         {set(times), other, nil},
		"writes in order":        {write(0, "abc"), write(3, "de"), write(0, "abcde")},
		"a gap":                  {write(0, "abc"), write(4, "d"), nil},
		"an append":              {write(0, "abc"), appended, nil},
		"another open file":      {write(0, "abc"), otherFile, nil},
		"too much":               {write(0, "abc"), write(3, string(make([]byte, maxJoined))), nil},
		"what cannot be joined":  {set(times), &fsyscall.Release{File: 3}, nil},
		"kept small, both large": {write(0, string(make([]byte, maxJoined/2))), write(maxJoined/2, string(make([]byte, maxJoined/2))), nil},
	} {
		op := fsyscall.OpSetAttr
		if _, ok := c.first.(*fsyscall.Write); ok {
			op = fsyscall.OpWrite
		}
		h := fsyscall.Header{Kind: fsyscall.KindCall, Op: op, Tag: 9}
		encode := func(m fsyscall.Message) []byte {
			b, err := fsyscall.AppendMessage(nil, h, m)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		var want []byte
		if c.want != nil {
			want = encode(c.want)
		}
		if got := joined(encode(c.first), c.next); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", name, got, want)
		}
	}
}
