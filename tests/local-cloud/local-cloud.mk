# The local cloud: the pinned emulator in a virtual environment of its own, and the smoke tests of its patches.
LOCAL_CLOUD := tests/local-cloud
EMU := target/tools/emu

.PHONY: tools-emu test-local-cloud
tools-emu: $(EMU)/.requirements ## the local cloud's emulator, in target/tools/emu

$(EMU)/.requirements: $(LOCAL_CLOUD)/requirements.txt
	python3 -m venv $(EMU)
	$(EMU)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

test-local-cloud: tools-emu ## every patch of the local cloud does what AWS does
	$(EMU)/bin/python -B -m pytest -q -p no:cacheprovider $(LOCAL_CLOUD)
