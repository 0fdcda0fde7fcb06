package cgroup

// Locate returns where control groups would be tried: memory and pids directory
// of each place.
func Locate(self, mountinfo string) [][2]string {
	var places [][2]string
	for _, c := range locate(self, mountinfo) {
		places = append(places, [2]string{c.memory, c.pids})
	}
	return places
}

// SweepDir removes from dir the groups of hubs that are gone.
func SweepDir(dir string) { sweep(&Groups{memory: dir, pids: dir}) }
