"""The CNI plugin `cilium-cni`: checks a runtime's request, asks the agent, answers in the runtime's version of CNI."""
