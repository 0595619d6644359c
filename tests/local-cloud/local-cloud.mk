# The local cloud: the pinned emulator in a virtual environment of its own, and the smoke tests of its patches.
HIGHWATER_TOOLS ?= $(CURDIR)/target/tools
EMU = $(HIGHWATER_TOOLS)/emu

.PHONY: tools-emu
tools-emu: $(EMU)/.requirements ## Install the local cloud's emulator

$(EMU)/.requirements: tests/local-cloud/requirements.txt
	python3 -m venv $(EMU)
	$(EMU)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

.PHONY: test-local-cloud
test-local-cloud: tools-emu ## Every patch of the local cloud does what AWS does
	$(EMU)/bin/python -B -m pytest -q -p no:cacheprovider tests/local-cloud
