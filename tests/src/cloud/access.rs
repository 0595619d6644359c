//! Who may do what in the deployed stack, and who needed which of it.

use super::call::elements;
use super::{ACCOUNT, Cloud, DEPLOYMENT, array, text};
use serde_json::{Value, json};

/// One statement that allows, of a role's policies as they were deployed.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The role's name.
    pub role: String,
    /// The statement's.
    pub sid: String,
    /// What it allows,
    pub actions: Vec<String>,
    /// on which resources: patterns of ARNs.
    pub resources: Vec<String>,
}

/// An action that a role needed (see `tests/local-cloud/patches/calls.py`).
#[derive(Debug, Clone)]
pub struct Needed {
    /// The role's name.
    pub role: String,
    /// `service:Action`.
    pub action: String,
    /// Its ARN; `*` for an action that knows none.
    pub resource: String,
}

impl Grant {
    /// Whether it allows this action of this role. Conditions are not looked at.
    pub fn allows(&self, needed: &Needed) -> bool {
        self.role == needed.role
            && self.actions.contains(&needed.action)
            && self.resources.iter().any(|pattern| like(pattern, &needed.resource))
    }
}

impl Cloud {
    /// Every statement of every role of the deployment, and of the DB hosts that were launched.
    pub fn grants(&self) -> Vec<Grant> {
        let roles = elements(&self.query("iam", "ListRoles", &[]), "RoleName");
        roles.iter().flat_map(|role| self.documents_of(role).into_iter().flat_map(|document| statements(role, &document))).collect()
    }

    fn documents_of(&self, role: &str) -> Vec<Value> {
        let inline = elements(&self.query("iam", "ListRolePolicies", &[("RoleName", role)]), "member").into_iter().map(|name| {
            let answer = self.query("iam", "GetRolePolicy", &[("RoleName", role), ("PolicyName", &name)]);
            elements(&answer, "PolicyDocument").remove(0)
        });
        let attached =
            elements(&self.query("iam", "ListAttachedRolePolicies", &[("RoleName", role)]), "PolicyArn").into_iter().map(|arn| {
                let version = elements(&self.query("iam", "GetPolicy", &[("PolicyArn", &arn)]), "DefaultVersionId").remove(0);
                let answer = self.query("iam", "GetPolicyVersion", &[("PolicyArn", &arn), ("VersionId", &version)]);
                elements(&answer, "Document").remove(0)
            });
        inline.chain(attached).map(|text| serde_json::from_str(&decoded(&text)).unwrap_or_else(|e| panic!("{role}: {e}: {text}"))).collect()
    }

    /// What each role needed so far, each once.
    pub fn needed(&self) -> Vec<Needed> {
        let one = |call: &Value| Needed {
            role: text(call, "role").to_owned(),
            action: text(call, "action").to_owned(),
            resource: text(call, "resource").to_owned(),
        };
        array(&self.control("GET", "calls", &json!({}))).iter().map(one).collect()
    }

    /// The name of a role of this deployment.
    pub fn role(what: &str) -> String {
        format!("{DEPLOYMENT}-{what}")
    }

    /// The name of the queue of what nobody could handle.
    pub fn dead_letters() -> String {
        format!("arn:aws:sqs:{}:{ACCOUNT}:{DEPLOYMENT}-dead-letters", super::REGION)
    }
}

fn statements(role: &str, document: &Value) -> Vec<Grant> {
    let many = |value: &Value| match value {
        Value::Array(all) => all.iter().map(|one| one.as_str().expect("a text").to_owned()).collect(),
        one => vec![one.as_str().unwrap_or_else(|| panic!("{role}: neither text nor list: {one}")).to_owned()],
    };
    let grant = |statement: &Value| {
        assert_eq!(statement["Effect"], "Allow", "{role}: {statement}");
        Grant {
            role: role.to_owned(),
            sid: text(statement, "Sid").to_owned(),
            actions: many(&statement["Action"]),
            resources: many(&statement["Resource"]),
        }
    };
    array(&document["Statement"]).iter().map(grant).collect()
}

/// IAM's patterns: `*` for any characters, `?` for one.
fn like(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| like(rest, &text[at..])),
        _ => text.chars().next().is_some_and(|c| (first == '?' || first == c) && like(rest, &text[c.len_utf8()..])),
    }
}

/// XML's entities, then the URL's escapes: IAM sends documents with both.
fn decoded(text: &str) -> String {
    let text = [("&quot;", "\""), ("&#34;", "\""), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")]
        .iter()
        .fold(text.to_owned(), |t, (from, to)| t.replace(from, to));
    if text.starts_with('{') {
        return text;
    }
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let hex = [rest.next().expect("two digits"), rest.next().expect("two digits")];
                u8::from_str_radix(std::str::from_utf8(&hex).expect("digits"), 16).expect("hexadecimal digits")
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).expect("a document of UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_iams_and_documents_are_read_however_they_are_escaped() {
        assert!(like("arn:aws:s3:::b/v1/*/drills/*", "arn:aws:s3:::b/v1/orders/drills/d/plan.json"));
        assert!(like("????T-*", "2026T-") && !like("????T-*", "202T-") && !like("a", "ab") && !like("ab", "a"));
        assert_eq!(decoded("%7B%22a%22%3A%22b+c%22%7D"), r#"{"a":"b c"}"#);
        assert_eq!(decoded("{&quot;a&quot;: 1}"), r#"{"a": 1}"#);
        let document = json!({"Statement": [{"Sid": "S", "Effect": "Allow", "Action": "s3:GetObject", "Resource": ["arn:aws:s3:::b/*"]}]});
        let grant = statements("r", &document).remove(0);
        let needed = |action: &str, resource: &str| Needed { role: "r".into(), action: action.into(), resource: resource.into() };
        assert!(grant.allows(&needed("s3:GetObject", "arn:aws:s3:::b/k")));
        assert!(!grant.allows(&needed("s3:PutObject", "arn:aws:s3:::b/k")) && !grant.allows(&needed("s3:GetObject", "arn:aws:s3:::c/k")));
    }
}
