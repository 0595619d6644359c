//! Calls to the emulator as AWS's own protocols have them, without an SDK: a test says what it sends.

use super::{ACCOUNT, Cloud, REGION};
use crate::run;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

/// A refused call.
#[derive(Debug, Clone)]
pub struct AwsError {
    /// The service's error code.
    pub code: String,
    /// Its message.
    pub message: String,
}

/// Somebody whom IAM knows.
#[derive(Debug, Clone)]
pub struct Person {
    /// As IAM names it: what a function hears of the caller.
    pub arn: String,
    key: String,
    secret: String,
    /// Of a role's session.
    token: Option<String>,
}

impl Person {
    /// Their credentials, as commands read them.
    pub fn env(&self) -> [(&str, &str); 3] {
        [("AWS_ACCESS_KEY_ID", &self.key), ("AWS_SECRET_ACCESS_KEY", &self.secret), ("AWS_REGION", REGION)]
    }

    /// Who signs with this one's secret, and says to be another: what somebody has who knows an access key's id.
    #[must_use]
    pub fn posing_as(&self, another: &Self) -> Self {
        Self { secret: self.secret.clone(), ..another.clone() }
    }
}

/// A request as it goes over the wire, but for its signature.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Whose it is: `s3`.
    pub service: &'a str,
    /// `GET`.
    pub method: &'a str,
    /// From the root, with the query.
    pub path: &'a str,
    /// `name: value`.
    pub headers: &'a [&'a str],
    /// Its bytes.
    pub body: &'a str,
}

impl Person {
    /// The account itself, which may do everything.
    pub fn account() -> Self {
        Self { arn: format!("arn:aws:iam::{ACCOUNT}:root"), key: "test".into(), secret: "test".into(), token: None }
    }
}

impl Cloud {
    /// What a listing has in `list`, of all its pages.
    pub fn aws_list(&self, service: &str, target: &str, request: &Value, list: &str) -> Vec<Value> {
        let (mut request, mut found) = (request.clone(), Vec::new());
        loop {
            let page = self.aws(service, target, &request).unwrap_or_else(|e| panic!("{target}: {e:?}"));
            found.extend(page[list].as_array().unwrap_or_else(|| panic!("{target}: no {list} in {page}")).iter().cloned());
            let Some(token) = ["NextToken", "nextToken"].into_iter().find(|token| page[token].is_string()) else { return found };
            request[token] = page[token].clone();
        }
    }

    /// Every SSM command that was sent, the newest first.
    pub fn commands(&self) -> Vec<Value> {
        self.aws_list("ssm", "AmazonSSM.ListCommands", &serde_json::json!({}), "Commands")
    }

    /// A call of a service that speaks JSON: `aws("ssm", "AmazonSSM.GetParameter", …)`.
    ///
    /// # Errors
    /// The service's refusal.
    pub fn aws(&self, service: &str, target: &str, request: &Value) -> Result<Value, AwsError> {
        let version = if matches!(service, "dynamodb" | "states" | "sqs") { "1.0" } else { "1.1" };
        let headers = [
            ("authorization", self.http.scope(service)),
            ("x-amz-target", target.to_owned()),
            ("content-type", format!("application/x-amz-json-{version}")),
        ];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (status, answer) = self.http.send("POST", "/", &headers, request.to_string().as_bytes());
        let answer = if answer.is_empty() { b"{}".to_vec() } else { answer };
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|e| panic!("{target}: {status}: not JSON: {e}"));
        if status == 200 {
            return Ok(answer);
        }
        let either = |a: &str, b: &str| answer[a].as_str().or(answer[b].as_str()).unwrap_or_default().to_owned();
        let code = either("__type", "code").rsplit('#').next().unwrap_or_default().to_owned();
        Err(AwsError { code, message: either("message", "Message") })
    }

    /// A call of a service that speaks forms and XML; returns the XML.
    pub(super) fn query(&self, service: &str, action: &str, parameters: &[(&str, &str)]) -> String {
        let mut form = format!("Action={action}");
        parameters.iter().for_each(|(name, value)| form.push_str(&format!("&{name}={}", encoded(value))));
        let headers = [("authorization", self.http.scope(service)), ("content-type", "application/x-www-form-urlencoded".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (status, answer) = self.http.send("POST", "/", &headers, form.as_bytes());
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(status, 200, "{service} {form}: {answer}");
        answer
    }

    /// A user with an access key.
    pub fn user(&self, name: &str) -> Person {
        self.query("iam", "CreateUser", &[("UserName", name)]);
        let answer = self.query("iam", "CreateAccessKey", &[("UserName", name)]);
        let arn = format!("arn:aws:iam::{ACCOUNT}:user/{name}");
        Person { arn, key: element(&answer, "AccessKeyId"), secret: element(&answer, "SecretAccessKey"), token: None }
    }

    /// A session of a role that anybody may assume; whoever assumes it chooses the session's name.
    pub fn session(&self, role: &str, name: &str) -> Person {
        let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}"#;
        if !elements(&self.query("iam", "ListRoles", &[]), "RoleName").contains(&role.to_owned()) {
            self.query("iam", "CreateRole", &[("RoleName", role), ("AssumeRolePolicyDocument", trust)]);
        }
        let arn = format!("arn:aws:iam::{ACCOUNT}:role/{role}");
        let answer = self.query("sts", "AssumeRole", &[("RoleArn", arn.as_str()), ("RoleSessionName", name)]);
        let of = |part: &str| element(&answer, part);
        Person { arn: of("Arn"), key: of("AccessKeyId"), secret: of("SecretAccessKey"), token: Some(of("SessionToken")) }
    }

    /// Calls decide-approval's URL as this person: status and answer. The emulator checks the signature.
    pub fn call_approval_url(&self, person: &Person, body: &Value) -> (u16, Value) {
        let answer = run(&mut self.signed(person, body, &[]));
        let (body, status) = answer.rsplit_once('\n').expect("a status after the body");
        (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
    }

    /// What whoever is on an instance can call as: the session of its role, from its metadata service.
    pub fn role_of(&self, instance: &str) -> Person {
        let metadata =
            self.control("GET", &format!("hosts/{instance}"), &json!({}))["metadata-url"].as_str().expect("a metadata service").to_owned();
        let get = |method: &str, path: &str, header: &str| {
            run(Command::new("curl")
                .args(["--silent", "--fail", "--request", method, "--header", header])
                .arg(format!("{metadata}/latest/{path}")))
        };
        let token = format!("X-aws-ec2-metadata-token: {}", get("PUT", "api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60"));
        let credentials = "meta-data/iam/security-credentials/";
        let role = get("GET", credentials, &token);
        let found: Value = serde_json::from_str(&get("GET", &format!("{credentials}{role}"), &token)).expect("credentials");
        let of = |part: &str| found[part].as_str().unwrap_or_else(|| panic!("no {part}")).to_owned();
        Person { arn: role, key: of("AccessKeyId"), secret: of("SecretAccessKey"), token: Some(of("Token")) }
    }

    /// One request as this one, signed: its HTTP status, and the answer. `target` is a service's operation, or nothing.
    pub fn request_as(&self, person: &Person, request: &Request<'_>) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--aws-sigv4", &format!("aws:amz:{REGION}:{}", request.service)]);
        curl.args(["--user", &format!("{}:{}", person.key, person.secret), "--request", request.method]);
        if let Some(token) = &person.token {
            curl.args(["--header", &format!("x-amz-security-token: {token}")]);
        }
        for header in request.headers {
            curl.args(["--header", header]);
        }
        if !request.body.is_empty() || request.method != "GET" {
            curl.args(["--data-binary", request.body]);
        }
        let answer = run(curl.args(["--write-out", "\n%{http_code}"]).arg(format!("{}{}", self.url(), request.path)));
        let (body, status) = answer.rsplit_once('\n').expect("a status after the body");
        (status.parse().expect("a status"), body.to_owned())
    }

    fn signed(&self, person: &Person, body: &Value, more: &[&str]) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--aws-sigv4", &format!("aws:amz:{REGION}:lambda")]);
        curl.args(["--user", &format!("{}:{}", person.key, person.secret), "--header", "content-type: application/json"]);
        if let Some(token) = &person.token {
            curl.args(["--header", &format!("x-amz-security-token: {token}")]);
        }
        curl.args(["--data-binary", &body.to_string(), "--write-out", "\n%{http_code}"]).args(more).arg(self.approval_url());
        curl
    }

    /// The bytes of a call of the approval URL that this person signed, as somebody between them and the service has them.
    pub fn overheard(&self, person: &Person, body: &Value) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let here = format!("{}:{}", self.http.address(), listener.local_addr().expect("its address"));
        let mut curl = self.signed(person, body, &["--connect-to", &here, "--http1.0"]).stdout(Stdio::null()).spawn().expect("start curl");
        let (mut stream, _) = listener.accept().expect("curl's connection");
        let mut bytes = vec![0; 1 << 16];
        let mut length = 0;
        while !bytes[..length].ends_with(body.to_string().as_bytes()) {
            let read = stream.read(&mut bytes[length..]).expect("read from curl");
            assert!(read > 0, "curl sent its body: {}", String::from_utf8_lossy(&bytes[..length]));
            length += read;
        }
        bytes.truncate(length);
        stream.write_all(b"HTTP/1.0 500 lost\r\ncontent-length: 0\r\n\r\n").expect("answer curl");
        drop(stream);
        curl.wait().expect("wait for curl");
        bytes
    }

    /// Sends such bytes: the answer's status.
    pub fn replay(&self, bytes: &[u8]) -> u16 {
        let mut stream = TcpStream::connect(self.http.address()).expect("connect");
        stream.write_all(bytes).expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read the answer");
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status in {answer}"))
    }

    /// Where decide-approval's URL is reached from this machine, which cannot resolve the name in the stack's output.
    pub fn approval_url(&self) -> String {
        let url = self.output("ApprovalUrl");
        let id = url.split("://").last().and_then(|u| u.split('.').next()).unwrap_or_else(|| panic!("an id in {url}"));
        format!("{}/_aws/lambda-url/{id}/", self.url())
    }

    /// The role that the DB hosts of a cluster run with, made as `infra/README.md` tells an operator to.
    pub(super) fn host_profile(&self, cluster: &str) -> String {
        let (name, policy) = (format!("db-{cluster}"), format!("arn:aws:iam::{ACCOUNT}:policy/{}-host-{cluster}", super::DEPLOYMENT));
        if self.query("iam", "ListInstanceProfiles", &[]).contains(&format!("<InstanceProfileName>{name}<")) {
            return name;
        }
        let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;
        let tag = [("Tags.member.1.Key", "highwater:cluster"), ("Tags.member.1.Value", cluster)];
        self.query("iam", "CreateRole", &[[("RoleName", name.as_str()), ("AssumeRolePolicyDocument", trust)], tag].concat());
        self.query("iam", "AttachRolePolicy", &[("RoleName", &name), ("PolicyArn", &policy)]);
        self.query("iam", "CreateInstanceProfile", &[("InstanceProfileName", &name)]);
        self.query("iam", "AddRoleToInstanceProfile", &[("InstanceProfileName", &name), ("RoleName", &name)]);
        name
    }
}

/// DynamoDB's typed JSON as plain JSON.
pub(super) fn plain(value: &Value) -> Value {
    let Some((kind, inner)) = value.as_object().and_then(|o| o.iter().next()) else { return Value::Null };
    match kind.as_str() {
        "N" => serde_json::from_str(inner.as_str().unwrap_or("null")).unwrap_or(Value::Null),
        "M" => inner.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), plain(value))).collect(),
        "L" => inner.as_array().into_iter().flatten().map(plain).collect(),
        "NULL" => Value::Null,
        _ => inner.clone(),
    }
}

/// The first element of this name.
fn element(xml: &str, name: &str) -> String {
    elements(xml, name).into_iter().next().unwrap_or_else(|| panic!("no {name} in {xml}"))
}

/// The texts of all elements of this name.
pub(super) fn elements(xml: &str, name: &str) -> Vec<String> {
    xml.split(&format!("<{name}>")).skip(1).map(|rest| rest.split("</").next().unwrap_or_default().to_owned()).collect()
}

fn encoded(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// HTTP/1.0 to one address: an answer ends with its connection.
#[derive(Debug)]
pub(super) struct Http {
    url: String,
}

impl Http {
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// What the emulator finds the service by; it checks no signature here.
    pub(super) fn scope(&self, service: &str) -> String {
        format!("AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0")
    }

    /// Status and body of one exchange.
    pub(super) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Vec<u8>) {
        let address = self.address();
        let mut head = format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str("\r\n");
        let exchange = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(&[head.as_bytes(), body].concat())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        let answer = exchange().unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let split = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no answer"));
        let status = String::from_utf8_lossy(&answer[..split]).split(' ').nth(1).and_then(|s| s.parse().ok());
        (status.unwrap_or_else(|| panic!("{method} {path}: no status")), answer[split + 4..].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::text;

    #[test]
    fn typed_json_becomes_plain() {
        let typed = json!({"M": {"a": {"N": "7"}, "b": {"L": [{"S": "x"}, {"NULL": true}]}, "c": {"BOOL": true}}});
        assert_eq!(plain(&typed), json!({"a": 7, "b": ["x", null], "c": true}));
        assert_eq!(text(&plain(&json!({"M": {"s": {"S": "t"}}})), "s"), "t");
    }
}
