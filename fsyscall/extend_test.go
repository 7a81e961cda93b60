package fsyscall

import (
	"bytes"
	"testing"
)

func TestExtendWrite(t *testing.T) {
	h := Header{Kind: KindCall, Op: OpWrite, Tag: 7}
	write := func(data string) []byte {
		b, err := AppendMessage(nil, h, &Write{File: 3, Off: 5, Data: []byte(data)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if got, want := ExtendWrite(write("one "), []byte("two")), write("one two"); !bytes.Equal(got, want) {
		t.Errorf("%x\nwant\n%x", got, want)
	}
}

func TestAnnounce(t *testing.T) {
	h := Header{Kind: KindCall, Op: OpWrite, Tag: 7}
	data := []byte("what follows")
	whole, err := AppendMessage(nil, h, &Write{File: 3, Off: 5, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	b, err := AppendMessage(nil, h, &Write{File: 3, Off: 5})
	if err != nil {
		t.Fatal(err)
	}
	Announce(b, len(data))
	if got := append(b, data...); !bytes.Equal(got, whole) {
		t.Errorf("%x\nwant\n%x", got, whole)
	}
}
