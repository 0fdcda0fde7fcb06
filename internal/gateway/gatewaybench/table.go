package main

import "fmt"

// values are measured by target.
type values map[string]float64

// table prints as it goes.
type table struct{ set *parts }

const rowFormat = "%-46s %12s   %-8s %12s %8s\n"

func newTable(s *parts) *table {
	fmt.Printf(rowFormat, "name", "gateway", "baseline", "", "ratio")
	return &table{s}
}

// rows prints the gateway's value beside that of each other target.
func (t *table) rows(name, unit string, v values) {
	for _, tg := range t.set.targets {
		if tg.name == "gateway" {
			continue
		}
		base, ok := v[tg.name]
		switch {
		case tg.missing:
			fmt.Printf(rowFormat, name, number(v["gateway"], unit), tg.name, "not installed", "")
		case ok && base > 0 && v["gateway"] >= 0: // what is added may drown in noise
			fmt.Printf(rowFormat, name, number(v["gateway"], unit), tg.name, number(base, unit), fmt.Sprintf("%.2f", v["gateway"]/base))
		case ok:
			fmt.Printf(rowFormat, name, number(v["gateway"], unit), tg.name, number(base, unit), "-")
		}
	}
}

func (t *table) row1(name string, v float64, unit string) {
	fmt.Printf(rowFormat, name, "", "", number(v, unit), "")
}

// share prints a part of a whole.
func (t *table) share(name string, part, whole float64, unit string) {
	fmt.Printf(rowFormat, name, number(part, unit), "the hop", number(whole, unit), fmt.Sprintf("%.2f", part/whole))
}

func number(v float64, unit string) string {
	if v >= 1000 || v == float64(int(v)) {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}
