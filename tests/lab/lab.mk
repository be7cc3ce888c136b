# Included by the Makefile at the top.
.PHONY: lab lab-test lab-down

lab: handler ## a laboratory of three nodes, each with its own engine
	@tests/lab/lab up

lab-test: image testapp ## the cluster scenarios in the laboratory; ONE=name for one of them, KEEP=1 to keep it up
	@tests/lab/lab test $(ONE)

lab-down: ## remove the laboratory
	@tests/lab/lab down
