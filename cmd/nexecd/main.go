// Command nexecd is the SSH server of nexec. See nexecd(8).
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/SumiTomohiko/nexec/cmd/tuning"
)

// options are the command line's. The letters are sshd's.
type options struct {
	config    string
	overrides []string // -o, -p, -h as lines of the configuration
	check     bool     // -t
	dump      bool     // -T
	inetd     bool     // -i
	stderr    bool     // -e
	logFile   string   // -E
	spec      string   // -C
	version   bool
}

const usage = `usage: nexecd [-Ddeit] [-T] [-C spec] [-E log] [-f config] [-h hostkey]
              [-o Keyword=value] [-p port]
`

// errUsage is a mistake on the command line.
var errUsage = errors.New("usage")

// parseArgs reads letters as getopt(3) does: they may be joined, and values
// may follow at once or as the next argument.
func parseArgs(args []string) (*options, error) {
	o := &options{}
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--version":
			o.version = true
			continue
		case len(a) < 2 || a[0] != '-' || a == "--":
			return nil, fmt.Errorf("%w: unexpected argument %q", errUsage, a)
		}
		for j := 1; j < len(a); j++ {
			if strings.IndexByte("CEfhopgbcu", a[j]) < 0 {
				if err := o.flag(a[j]); err != nil {
					return nil, err
				}
				continue
			}
			value := a[j+1:]
			if value == "" {
				if i++; i >= len(args) {
					return nil, fmt.Errorf("%w: -%c needs a value", errUsage, a[j])
				}
				value = args[i]
			}
			if err := o.value(a[j], value); err != nil {
				return nil, err
			}
			break
		}
	}
	return o, nil
}

func (o *options) flag(c byte) error {
	switch c {
	case 'D': // nexecd never goes into the background
	case 'd':
		o.overrides = append(o.overrides, "LogLevel DEBUG")
		o.stderr = true
	case 'e':
		o.stderr = true
	case 'i':
		o.inetd = true
	case 't':
		o.check = true
	case 'T':
		o.dump = true
	case 'q':
		o.overrides = append(o.overrides, "LogLevel QUIET")
	default:
		return fmt.Errorf("%w: unknown option -%c", errUsage, c)
	}
	return nil
}

func (o *options) value(c byte, v string) error {
	switch c {
	case 'f':
		o.config = v
	case 'o':
		o.overrides = append(o.overrides, v)
	case 'p':
		o.overrides = append(o.overrides, "Port "+v)
	case 'h':
		abs, err := filepath.Abs(v)
		if err != nil {
			return err
		}
		o.overrides = append(o.overrides, "HostKey "+quote(abs))
	case 'E':
		o.logFile = v
	case 'C':
		o.spec = v
	case 'g':
		o.overrides = append(o.overrides, "LoginGraceTime "+v)
	default:
		return fmt.Errorf("%w: -%c is not supported", errUsage, c)
	}
	return nil
}

// quote makes one word of a configuration line.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func main() {
	tuning.Tune()
	os.Exit(mainStatus(os.Args[1:], os.Stdout, os.Stderr))
}

// mainStatus is the whole program. It returns the exit status.
func mainStatus(args []string, stdout, stderr io.Writer) int {
	o, err := parseArgs(args)
	if err != nil {
		fmt.Fprintf(stderr, "nexecd: %v\n%s", err, usage)
		return 2
	}
	if o.version {
		fmt.Fprintln(stdout, "nexecd", version())
		return 0
	}
	if err := run(o, stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "nexecd: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
	return 0
}
