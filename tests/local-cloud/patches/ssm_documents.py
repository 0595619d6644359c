"""SSM documents of type Command, schema 2.2: stored with versions, parameters checked, scripts rendered.

Accepted are steps of `aws:runShellScript` and the parameter types they need; anything else is refused
when the document is created, so that no step is silently skipped.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field

import yaml
from ministack.core.responses import AccountRegionScopedDict, error_response_json, get_account_id, json_response

ACTION = "aws:runShellScript"
TYPES = ("String", "StringList", "Integer", "Boolean")
REFERENCE = re.compile(r"\{\{\s*([\w.:/-]+)\s*\}\}")
EXECUTION_TIMEOUT_LIMIT_S = 172_800
DEFAULT_EXECUTION_TIMEOUT_S = 3_600

RUN_SHELL_SCRIPT = {
    "schemaVersion": "2.2",
    "parameters": {
        "commands": {"type": "StringList"},
        "workingDirectory": {"type": "String", "default": ""},
        "executionTimeout": {"type": "String", "default": "3600", "allowedPattern": "[1-9][0-9]{0,5}"},
    },
    "mainSteps": [{"action": ACTION, "name": "aws:runShellScript", "inputs": {
        "runCommand": ["{{ commands }}"], "workingDirectory": "{{ workingDirectory }}",
        "timeoutSeconds": "{{ executionTimeout }}"}}],
}


class Refused(Exception):
    """An API error: its code and its message."""

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message

    def reply(self):
        return error_response_json(self.code, self.message, 400)


@dataclass
class Document:
    name: str
    versions: list[dict] = field(default_factory=list)  # each the parsed content
    default: int = 1

    def number(self, version: str | None) -> int:
        chosen = {"$DEFAULT": self.default, "$LATEST": len(self.versions)}.get(version or "$DEFAULT", version)
        if not str(chosen).isdigit() or not 1 <= int(chosen) <= len(self.versions):
            raise Refused("InvalidDocumentVersion", f"The document {self.name} has no version {version}.")
        return int(chosen)

    def content(self, version: str | None = None) -> dict:
        return self.versions[self.number(version) - 1]

    def description(self, version: str | None = None) -> dict:
        number = self.number(version)
        content = self.versions[number - 1]
        return {
            "Name": self.name, "Owner": get_account_id(), "Status": "Active", "DocumentType": "Command",
            "DocumentFormat": "JSON", "SchemaVersion": content["schemaVersion"], "PlatformTypes": ["Linux", "MacOS"],
            "DocumentVersion": str(number), "DefaultVersion": str(self.default),
            "LatestVersion": str(len(self.versions)), "HashType": "Sha256", "Hash": _hash(content),
            "Description": content.get("description", ""),
            "Parameters": [{"Name": name, "Type": "StringList" if rule["type"] == "StringList" else "String",
                            "Description": rule.get("description", ""),
                            **({"DefaultValue": _text(rule["default"])} if "default" in rule else {})}
                           for name, rule in content.get("parameters", {}).items()],
        }


@dataclass
class Step:
    """A script ready to run."""

    name: str
    script: str
    timeout_s: float
    working_directory: str
    env: dict
    stops_on_failure: bool


documents = AccountRegionScopedDict()


def find(name: str) -> Document:
    if name == "AWS-RunShellScript":
        return Document(name, [RUN_SHELL_SCRIPT])
    bare = name.rsplit(":document/", 1)[-1]
    if bare not in documents:
        raise Refused("InvalidDocument", f"Document with name {name} does not exist.")
    return documents[bare]


# ---- content

def parse(content: str) -> dict:
    """The content of a document, checked as far as we would run it."""
    try:
        document = yaml.safe_load(content)  # JSON is YAML
    except yaml.YAMLError as error:
        raise Refused("InvalidDocumentContent", f"not JSON or YAML: {error}") from None
    if not isinstance(document, dict) or str(document.get("schemaVersion")) != "2.2":
        raise Refused("InvalidDocumentContent", "schemaVersion must be 2.2")
    parameters, steps = document.get("parameters") or {}, document.get("mainSteps") or []
    for name, rule in parameters.items():
        _check_rule(name, rule)
    if not steps:
        raise Refused("InvalidDocumentContent", "mainSteps must not be empty")
    names = [step.get("name", "") for step in steps]
    if len(set(names)) != len(names) or not all(re.fullmatch(r"[a-zA-Z0-9_]{1,128}", name) for name in names):
        raise Refused("InvalidDocumentContent", "every step needs a unique name of letters, digits and _")
    for step in steps:
        if step.get("action") != ACTION:
            raise Refused("InvalidDocumentContent", f"the local cloud runs {ACTION}, not {step.get('action')}")
        if not isinstance(step.get("inputs", {}).get("runCommand"), list):
            raise Refused("InvalidDocumentContent", f"step {step['name']}: inputs.runCommand must be a list")
        for reference in REFERENCE.findall(json.dumps(step["inputs"])):
            if reference not in parameters:
                raise Refused("InvalidDocumentContent", f"step {step['name']}: {reference} is not a parameter")
    return document


def _check_rule(name: str, rule: dict) -> None:
    if not re.fullmatch(r"\w+", name) or rule.get("type") not in TYPES:
        raise Refused("InvalidDocumentContent", f"parameter {name}: type must be one of {', '.join(TYPES)}")
    try:
        re.compile(rule.get("allowedPattern", ""))
    except re.error as error:
        raise Refused("InvalidDocumentContent", f"parameter {name}: allowedPattern: {error}") from None
    if "default" in rule:
        default = rule["default"]
        _check_values(name, rule, default if isinstance(default, list) else [_text(default)], "InvalidDocumentContent")


def _hash(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---- parameters

def resolve(document: dict, given: dict[str, list[str]]) -> dict[str, list[str]]:
    """The value of every parameter: given or default, each one allowed. AWS refuses before anything is sent."""
    rules = document.get("parameters") or {}
    for name in given:
        if name not in rules:
            raise Refused("InvalidParameters", f"{name} is not a parameter of the document")
    values = {}
    for name, rule in rules.items():
        if name in given:
            values[name] = given[name] if isinstance(given[name], list) else [given[name]]
            _check_values(name, rule, values[name], "InvalidParameters")
        elif "default" in rule:
            values[name] = rule["default"] if isinstance(rule["default"], list) else [_text(rule["default"])]
        else:
            raise Refused("InvalidParameters", f"{name} has no default and must be given")
    return values


def _check_values(name: str, rule: dict, values: list[str], code: str) -> None:
    def refuse(why: str):
        raise Refused(code, f"parameter {name}: {why}")

    if rule["type"] != "StringList" and len(values) != 1:
        refuse(f"one value, not {len(values)}")
    if not rule.get("minItems", 0) <= len(values) <= rule.get("maxItems", len(values)):
        refuse("number of items")
    for value in values:
        if rule["type"] == "Integer" and not re.fullmatch(r"-?\d+", value):
            refuse(f"{value!r} is not an integer")
        if rule["type"] == "Boolean" and value not in ("true", "false"):
            refuse(f"{value!r} is not true or false")
        if not rule.get("minChars", 0) <= len(value) <= rule.get("maxChars", len(value)):
            refuse("number of characters")
        if rule.get("allowedValues") and value not in map(_text, rule["allowedValues"]):
            refuse(f"{value!r} is not one of {rule['allowedValues']}")
        if rule.get("allowedPattern") and not re.fullmatch(rule["allowedPattern"], value):
            refuse(f"{value!r} does not match {rule['allowedPattern']}")


def _text(value) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


# ---- scripts

def render(document: dict, values: dict[str, list[str]]) -> list[Step]:
    """Parameters into the steps by plain text, as the agent does it: what a value contains, the shell sees.

    A parameter with interpolationType ENV_VAR is also in the environment, as SSM_name.
    """
    rules = document.get("parameters") or {}
    env = {f"SSM_{name}": "\n".join(values[name]) for name, rule in rules.items()
           if rule.get("interpolationType") == "ENV_VAR"}

    def fill(text: str) -> str:
        return REFERENCE.sub(lambda m: json.dumps(values[m[1]]) if rules[m[1]]["type"] == "StringList"
                             else values[m[1]][0], str(text))

    def lines(command: str) -> list[str]:
        whole = REFERENCE.fullmatch(command.strip())
        return values[whole[1]] if whole and rules[whole[1]]["type"] == "StringList" else [fill(command)]

    steps = []
    for step in document["mainSteps"]:
        inputs = step["inputs"]
        timeout = fill(inputs.get("timeoutSeconds", DEFAULT_EXECUTION_TIMEOUT_S))
        if not timeout.isdigit() or not 1 <= int(timeout) <= EXECUTION_TIMEOUT_LIMIT_S:
            raise Refused("InvalidParameters", f"timeoutSeconds is 1 to {EXECUTION_TIMEOUT_LIMIT_S}, not {timeout}")
        steps.append(Step(
            name=step["name"],
            script="\n".join(line for command in inputs["runCommand"] for line in lines(command)),
            timeout_s=int(timeout),
            working_directory=fill(inputs.get("workingDirectory", "")),
            env=env,
            stops_on_failure=step.get("onFailure") == "exit" or inputs.get("onFailure") == "exit",
        ))
    return steps


# ---- API

def create(request: dict):
    name = request.get("Name") or ""
    if not re.fullmatch(r"[a-zA-Z0-9_.\-:/]{3,128}", name) or name.lower().startswith(("aws", "amazon", "amzn")):
        raise Refused("ValidationException", f"{name!r} is not a name for a document")
    if request.get("DocumentType", "Command") != "Command":
        raise Refused("InvalidDocumentContent", f"the local cloud has no {request['DocumentType']} documents")
    if name in documents:
        raise Refused("DocumentAlreadyExists", f"Document with same name {name} already exists")
    documents[name] = Document(name, [parse(request["Content"])])
    return json_response({"DocumentDescription": documents[name].description()})


def update(request: dict):
    """A new version; the default stays until UpdateDocumentDefaultVersion."""
    document, content = find(request["Name"]), parse(request["Content"])
    if request.get("DocumentVersion") != "$LATEST" and document.number(request.get("DocumentVersion")) != len(document.versions):
        raise Refused("InvalidDocumentVersion", "only the latest version can be updated")
    if any(_hash(content) == _hash(known) for known in document.versions):
        raise Refused("DuplicateDocumentContent", "The content of the association document matches another version.")
    document.versions.append(content)
    return json_response({"DocumentDescription": document.description("$LATEST")})


def set_default(request: dict):
    document = find(request["Name"])
    document.default = document.number(request.get("DocumentVersion"))
    return json_response({"Description": {"Name": document.name, "DefaultVersion": str(document.default)}})


def get(request: dict):
    document = find(request["Name"])
    number = document.number(request.get("DocumentVersion"))
    return json_response({"Name": document.name, "Content": json.dumps(document.content(str(number))),
                          "DocumentVersion": str(number), "DocumentType": "Command", "DocumentFormat": "JSON",
                          "Status": "Active"})


def describe(request: dict):
    return json_response({"Document": find(request["Name"]).description(request.get("DocumentVersion"))})


def list_all(_request: dict):
    keys = ("Name", "Owner", "PlatformTypes", "DocumentVersion", "DocumentType", "SchemaVersion", "DocumentFormat")
    return json_response({"DocumentIdentifiers": [
        {key: value for key, value in document.description().items() if key in keys}
        for document in documents.values()]})


def delete(request: dict):
    documents.pop(find(request["Name"]).name, None)
    return json_response({})


ACTIONS = {"CreateDocument": create, "UpdateDocument": update, "UpdateDocumentDefaultVersion": set_default,
           "GetDocument": get, "DescribeDocument": describe, "ListDocuments": list_all, "DeleteDocument": delete}
