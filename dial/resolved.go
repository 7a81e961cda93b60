package dial

import "context"

// DialResolved is Dial with the configuration that Resolve returned for the
// same options, so that it is read once where a caller needs it before.
func DialResolved(ctx context.Context, o Options, cfg *Config) (*Conn, error) {
	return dialConfig(ctx, o, cfg)
}
