package usage

// Held returns how many bytes of the answer m holds.
func Held(m *Meter) int {
	n := cap(m.line) + cap(m.doc.key)
	for _, p := range m.doc.picks {
		n += cap(p.value)
	}
	return n
}
