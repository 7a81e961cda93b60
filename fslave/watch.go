package fslave

import "github.com/SumiTomohiko/nexec/fsyscall"

type watcher struct{}
type ownChange struct{}

const (
	inCreate = 1 << iota
	inDelete
	inMove
	inAttr
	inData
	inSelf
)

func newWatcher(*Server) *watcher              { return &watcher{} }
func (w *watcher) start()                      {}
func (w *watcher) stop()                       {}
func (w *watcher) cover(*dir) bool             { return false }
func (w *watcher) covered(*dir) bool           { return false }
func (w *watcher) forget(*node)                {}
func (w *watcher) begin() *ownChange           { return nil }
func (o *ownChange) end(bool)                  {}
func (o *ownChange) entry(place, uint32)       {}
func (o *ownChange) inode(place, uint32)       {}
func (o *ownChange) names(*node, uint32)       {}
func (o *ownChange) self(*node, uint32)        {}
func (c *call) watchNode(fsyscall.NodeID) bool { return false }
func (s *Server) watchFile(*file) bool         { return false }
func (s *Server) fileCovered(*file) bool       { return false }
