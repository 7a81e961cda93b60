package namespace

import "testing"

func TestPasswd(t *testing.T) {
	const file = "root:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000:Bob:/srv/bob:/bin/zsh\nbob2:x:1000:1000::/b2:/bin/sh\n"
	for _, c := range []struct {
		name string
		id   Identity
		want string
	}{
		{"another home", Identity{Name: "bob", UID: 1000, Home: "/home/u"}, "bob:x:1000:1000:Bob:/home/u:/bin/zsh\nroot:x:0:0:root:/root:/bin/bash\nbob2:x:1000:1000::/b2:/bin/sh\n"},
		{"a second name for a uid", Identity{Name: "bob2", UID: 1000, Home: "/home/u"}, "bob2:x:1000:1000::/home/u:/bin/sh\nroot:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000:Bob:/srv/bob:/bin/zsh\n"},
		{"nothing to change", Identity{UID: 0, Home: "/root"}, file},
		{"a uid without a line", Identity{Name: "eve", UID: 7, GID: 8, Home: "/home/eve", Shell: "/bin/ksh"}, "eve:x:7:8::/home/eve:/bin/ksh\n" + file},
		{"nameless", Identity{UID: 7, GID: 8}, "u7:x:7:8::/:/bin/sh\n" + file},
		{"a home that is no field", Identity{UID: 0, Home: "/root:/bin/evil\nx"}, "root:x:0:0:root:/:/bin/bash\nbob:x:1000:1000:Bob:/srv/bob:/bin/zsh\nbob2:x:1000:1000::/b2:/bin/sh\n"},
	} {
		if got := string(c.id.passwd([]byte(file))); got != c.want {
			t.Errorf("%s:\n%s", c.name, got)
		}
	}
	id := Identity{UID: 5, GID: 6}
	if got := string(id.passwd([]byte("no:newline:5:6:::"))); got != "no:newline:5:6::/:\n" {
		t.Errorf("%q", got)
	}
	if got := string(id.group([]byte("a:x:6:\n"))); got != "a:x:6:\n" {
		t.Errorf("%q", got)
	}
	if got := string(id.group([]byte("a:x:7:\n"))); got != "u5:x:6:\na:x:7:\n" {
		t.Errorf("%q", got)
	}
	if user, shell := LoginShell([]byte(file), 1000, ""); user != "bob" || shell != "/bin/zsh" {
		t.Errorf("%s %s", user, shell)
	}
}
