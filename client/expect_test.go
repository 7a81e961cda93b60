package client

import "testing"

func TestRunsGit(t *testing.T) {
	for _, c := range []struct {
		want bool
		argv []string
	}{
		{true, []string{"git", "status"}},
		{true, []string{"/usr/bin/git"}},
		{true, []string{"sh", "-c", "cd src && git diff | wc -l"}},
		{true, []string{"bash", "-ec", "x=$(git rev-parse HEAD)"}},
		{true, []string{"env", "LANG=C", "git", "log"}},
		{false, []string{"make", "-j2"}},
		{false, []string{"sh", "-c", "digit 1; gitk; cat .gitignore"}},
		{false, []string{"gitk"}},
		{false, []string{"sh"}},
	} {
		if got := runsGit(c.argv); got != c.want {
			t.Errorf("%q: %v", c.argv, got)
		}
	}
}
