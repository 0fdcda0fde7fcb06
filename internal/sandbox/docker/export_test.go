package docker

// AgentUser is the user inside a root hub's container.
const AgentUser = agentUser

// What is fuzzed.
var (
	CurrentContext = currentContext
	ContextHost    = contextHost
)

// DeadLabels are those of a container of this hub whose process is gone.
func (d *Driver) DeadLabels(t interface{ Fatal(...any) }) map[string]string {
	id, err := d.hubID()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{LabelHub: id, labelPlace: "gone"}
}
