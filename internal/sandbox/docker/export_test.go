package docker

// AgentUser is the user inside a root hub's container.
const AgentUser = agentUser

// What is fuzzed.
var (
	CurrentContext = currentContext
	ContextHost    = contextHost
)

// HubID is the name that tells this hub's containers.
func (d *Driver) HubID(t interface{ Fatal(...any) }) string {
	id, err := d.hubID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// DeadLabels are those of a container of this hub whose process is gone.
func (d *Driver) DeadLabels(t interface{ Fatal(...any) }) map[string]string {
	return map[string]string{LabelHub: d.HubID(t), labelPlace: "gone"}
}
