# The ten verbs of this checkout. No logic here: each line calls the script or program that has it.
.PHONY: run stop test check image boot bench bless clean help

run:    ## start the one-node appliance as a box and return when it is ready
	@tests/testbed up
stop:   ## switch the appliance off; its state stays for the next `make run`
	@tests/testbed down --keep
test:   ## everything that gates: check, recipes, k3s contract, image, scenarios in boxes (SUITE=journey and others: tests/gate)
	@tests/gate $(SUITE)
check:  ## fast: format, clippy, deny, docs, tidy and unit tests
	@tests/check
image:  ## build the node image and its installation medium (K3S=FILE takes an official k3s binary)
	@image/medium
boot:   ## boot the installation medium in QEMU, on this terminal
	@image/boot
bench:  ## measure the budgets in the running appliance
	@tests/testbed bench
bless:  ## write golden files and generated CRDs anew
	@tests/bless
clean:  ## remove the appliance and build products; caches stay
	@tests/clean
help:   ## this list
	@sed -n 's/^\([a-z]*\): *## /  make \1\t/p' Makefile
