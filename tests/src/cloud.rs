//! The local cloud: the emulator under our launcher, with the real template deployed on it and the real binaries in it.
//!
//! ```no_run
//! use highwater_tests::{Cloud, MariaDb, config};
//! use serde_json::json;
//! let mut config = config();
//! config["clusters"]["orders"]["backup"]["max_incrementals"] = json!(2);
//! let (cloud, db) = (Cloud::deployed(&config), MariaDb::start());
//! let host = cloud.host("orders", &db);
//! cloud.fire("backup-orders");
//! cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed");
//! ```
//!
//! The template is what `cdk synth` makes of `infra/` and the test's configuration (kept below `target/cloud` for the next
//! test with the same one). A function's zip holds one line that executes the debug binary beside the test: a deployment then
//! copies no gigabyte. Nothing fires by itself: the configuration's schedules are a year apart, [`Cloud::fire`] lets one's
//! time come. A DB host is an instance of the emulator whose `highwater-host` is ours and reads `/etc/highwater/host.toml`
//! from a directory of the test; a drill's instance has what `infra/README.md` asks of its image.
//!
//! Everything ends with the value. A test that panics prints what the functions and the hosts logged.

mod access;
mod call;
mod gaps;
mod host;
mod synth;

pub use access::{Grant, Needed};
pub use call::{AwsError, Person, Request};
pub use host::CloudHost;

use crate::scratch::Scratch;
use crate::{block_on, target_dir, tool, wait_for, wait_for_within};
use call::Http;
use highwater_aws::s3::{Bucket, Endpoint};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Name of the deployment, region and account of every local cloud.
const DEPLOYMENT: &str = "highwater";
const REGION: &str = "eu-west-1";
const ACCOUNT: &str = "000000000000";

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/local-cloud/deploy.py");

/// The id of the host of the `n`th cluster: a configuration names its hosts before they exist.
fn host_id(n: usize) -> String {
    format!("i-0db{n:014x}")
}

/// A deployment of one cluster, `orders`.
pub fn config() -> Value {
    config_of(&["orders"])
}

/// A deployment of these clusters. Change what the test is about: `config["clusters"]["orders"]["keep"]["chains"] = json!(1)`.
pub fn config_of(clusters: &[&str]) -> Value {
    let never = "rate(365 days)";
    let cluster = |n: usize| {
        json!({
            "host": host_id(n),
            "backup": {"schedule": never},
            "drill": {"schedule": never, "image": "ami-0123456789abcdef0", "checks": "start_timeout_s = 60\nbuffer_pool_mib = 64\n"},
        })
    };
    let clusters: serde_json::Map<_, _> = clusters.iter().enumerate().map(|(n, name)| ((*name).to_owned(), cluster(n))).collect();
    json!({
        "name": DEPLOYMENT,
        "network": {
            "vpc_id": "vpc-0123456789abcdef0",
            "subnet_ids": ["subnet-0123456789abcdef0"],
            "s3_prefix_list_id": "pl-6da54004",
            "endpoint_security_group_id": "sg-0123456789abcdef0",
        },
        "fleet_drill": {"schedule": never},
        "reconcile_schedule": never,
        "prune_schedule": never,
        "clusters": clusters,
    })
}

/// One launcher, alone on ports of its own.
#[derive(Debug)]
pub struct Cloud {
    scratch: Scratch,
    launcher: Child,
    http: Http,
    /// Of the stack, once it is deployed.
    outputs: Value,
}

impl Cloud {
    /// An empty cloud.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let scratch = Scratch::new("cloud");
        let log = File::create(scratch.join("launcher.log")).expect("create the launcher's log");
        // Without the scratch directory's mark: the launcher ends with its starter, and takes its hosts along in order.
        let mut launcher = Command::new(tool("emu/bin/python"))
            .args(["-B", concat!(env!("CARGO_MANIFEST_DIR"), "/local-cloud/launcher.py"), "--data"])
            .arg(scratch.join("d"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start the launcher");
        let mut line = String::new();
        BufReader::new(launcher.stdout.take().expect("its standard output")).read_line(&mut line).expect("read its first line");
        let log = || std::fs::read_to_string(scratch.join("launcher.log")).unwrap_or_default();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the launcher did not start: {}", log()));
        let http = Http::new(text(&ready, "endpoint"));
        let cloud = Self { scratch, launcher, http, outputs: Value::Null };
        cloud.settings(json!({"sfn_wait_scale": 0.01, "lambda_retry_s": 0.2, "shutdown_grace_s": 0.2}));
        cloud.control("PUT", "hosts", &host::image(&cloud.scratch));
        cloud
    }

    /// A cloud with the template of this configuration deployed.
    pub fn deployed(config: &Value) -> Self {
        let mut cloud = Self::start();
        cloud.deploy(config);
        cloud
    }

    /// The same, and IAM's policies are enforced: a function, host or drill does what its role may, and nothing else. The test's own
    /// calls are the account's.
    pub fn enforcing(config: &Value) -> Self {
        let mut cloud = Self::start_with(&["--auth"]);
        cloud.deploy(config);
        cloud
    }

    /// Deploys the template of a configuration; a second time, updates the stack.
    pub fn deploy(&mut self, config: &Value) {
        self.deploy_with(config, &|function| target_dir().join(function));
    }

    /// The same with other binaries than the debug ones: of each function's and the helper's name, its path.
    pub fn deploy_with(&mut self, config: &Value, binary: &dyn Fn(&str) -> PathBuf) {
        self.deploy_by(Command::new(tool("emu/bin/python")).args(["-B", DEPLOY]).arg(synth::assembly(config, binary)));
        self.listen_to_notifications();
    }

    /// Deploys anew, taking over what a deleted stack left: of each logical id, what identifies it.
    pub fn deploy_over(&mut self, config: &Value, retained: &Value) {
        let path = self.scratch.join("retained.json");
        std::fs::write(&path, retained.to_string()).expect("write what is taken over");
        let assembly = synth::assembly(config, &|function| target_dir().join(function));
        self.deploy_by(Command::new(tool("emu/bin/python")).args(["-B", DEPLOY]).arg(assembly).arg("--import").arg(path));
    }

    fn deploy_by(&mut self, deploy: &mut Command) {
        let outputs = crate::run(deploy.args(["--endpoint", self.http.url()]));
        self.outputs = serde_json::from_str(&outputs).expect("the stack's outputs");
    }

    /// A call by the AWS CLI: its answer, `null` where there is none.
    pub fn cli(&self, arguments: &[&str]) -> Value {
        let mut aws = Command::new(tool("peers/bin/aws"));
        aws.envs(self.env()).env("AWS_DEFAULT_REGION", REGION).args(["--output", "json"]).args(arguments);
        let answer = crate::run(&mut aws);
        if answer.trim().is_empty() { Value::Null } else { serde_json::from_str(&answer).expect("the CLI's JSON") }
    }

    /// An output of the stack: `Bucket`, `Catalog`, `SigningKey`, `ApprovalUrl`, `DrillMachine`, `PromotionMachine`.
    pub fn output(&self, name: &str) -> &str {
        text(&self.outputs, name)
    }

    /// Its address.
    pub fn url(&self) -> &str {
        self.http.url()
    }

    /// The test's directory.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    // ---- what a test orders of the launcher (tests/local-cloud/README.md)

    /// One order.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.http.send(method, &format!("/_local-cloud/{path}"), &[], body.to_string().as_bytes());
        assert_eq!(status, 200, "{method} {path} {body}: {}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).expect("the launcher's JSON")
    }

    /// Orders a fault: `json!({"on": "ssm:SendCommand", "effect": "lose-reply", "times": 1})`.
    pub fn fault(&self, fault: Value) {
        self.control("POST", "faults", &fault);
    }

    /// How often each ordered fault has struck, in their order.
    pub fn fault_hits(&self) -> Vec<u64> {
        let faults = self.control("GET", "faults", &json!({}));
        array(&faults).iter().map(|fault| fault["hits"].as_u64().expect("hits")).collect()
    }

    /// Forgets the faults.
    pub fn no_faults(&self) {
        self.control("DELETE", "faults", &json!({}));
    }

    /// Changes settings: `json!({"sfn_timeout_scale": 0.01})`.
    pub fn settings(&self, settings: Value) {
        self.control("PUT", "settings", &settings);
    }

    /// Every event of SSM and EC2 so far, and its fate.
    pub fn events(&self) -> Vec<Value> {
        array(&self.control("GET", "events", &json!({}))).clone()
    }

    /// Delivers the events that a `hold` kept, turned round or not.
    pub fn release_events(&self, reversed: bool) {
        self.control("POST", "events/release", &json!({"order": if reversed { "reversed" } else { "kept" }}));
    }

    /// Lets a schedule's time come: `backup-orders`, `drill-orders`, `fleet-drill`, `fleet-reconcile`, `fleet-prune`.
    pub fn fire(&self, schedule: &str) {
        self.control("POST", &format!("schedules/{DEPLOYMENT}/{schedule}/fire"), &json!({}));
    }

    /// Every instance that was ever launched: `instance-id`, `state`, `tags`, `running` (processes), …
    pub fn instances(&self) -> Vec<Value> {
        array(&self.control("GET", "hosts", &json!({}))).clone()
    }

    /// The drills' instances that still cost something. One that ended a while ago is gone: EC2 forgets it.
    pub fn drill_instances(&self) -> Vec<Value> {
        let live =
            |i: &Value| i["tags"]["highwater:purpose"] == "drill" && !matches!(text(i, "state"), "shutting-down" | "terminated" | "gone");
        self.instances().into_iter().filter(live).collect()
    }

    // ---- functions

    /// Calls a function and waits for its answer, or its error's type and message.
    ///
    /// # Errors
    /// The function's own.
    pub fn invoke(&self, function: &str, event: &Value) -> Result<Value, (String, String)> {
        let path = format!("/2015-03-31/functions/{DEPLOYMENT}-{function}/invocations");
        let (status, answer) =
            self.http.send("POST", &path, &[("authorization", &self.http.scope("lambda"))], event.to_string().as_bytes());
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|e| panic!("{function}: {status}: not JSON: {e}"));
        match (status, answer["errorType"].as_str()) {
            (200, None) => Ok(answer),
            (200, Some(name)) => Err((name.to_owned(), answer["errorMessage"].as_str().unwrap_or_default().to_owned())),
            _ => panic!("{function}: {status}: {answer}"),
        }
    }

    /// Waits until no function runs, and none has for two seconds: time enough for an event on its way, or another try.
    pub fn quiet(&self) {
        let counts = || self.control("GET", "invocations", &json!({}));
        wait_for("the last of the invocations", || {
            let before = counts();
            std::thread::sleep(Duration::from_secs(2));
            (before["running"] == 0 && before == counts()).then_some(())
        });
    }

    /// A function's environment, as it is deployed.
    pub fn environment(&self, function: &str) -> Vec<(String, String)> {
        let path = format!("/2015-03-31/functions/{DEPLOYMENT}-{function}/configuration");
        let (status, answer) = self.http.send("GET", &path, &[("authorization", &self.http.scope("lambda"))], b"");
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&answer));
        let answer: Value = serde_json::from_slice(&answer).expect("the function's configuration");
        let variables = answer["Environment"]["Variables"].as_object().unwrap_or_else(|| panic!("no environment in {answer}"));
        variables.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    }

    /// Sends a function an event, as a service does: it is tried three times, and nobody waits for an answer.
    pub fn send_event(&self, function: &str, event: &Value) {
        let path = format!("/2015-03-31/functions/{DEPLOYMENT}-{function}/invocations");
        let headers = [("authorization", self.http.scope("lambda")), ("x-amz-invocation-type", "Event".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (status, answer) = self.http.send("POST", &path, &headers, event.to_string().as_bytes());
        assert_eq!(status, 202, "{function}: {}", String::from_utf8_lossy(&answer));
    }

    /// What a function has logged.
    pub fn function_log(&self, function: &str) -> String {
        let group = json!({"logGroupName": format!("/aws/lambda/{DEPLOYMENT}-{function}")});
        let Ok(found) = self.aws("logs", "Logs_20140328.FilterLogEvents", &group) else { return String::new() };
        array(&found["events"]).iter().map(|event| format!("{}\n", text(event, "message").trim_end())).collect()
    }

    /// The metrics that a function has emitted so far: name, cluster (of those that have one), value.
    pub fn metrics(&self, function: &str) -> Vec<(String, Option<String>, f64)> {
        let mut found = Vec::new();
        for line in self.function_log(function).lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let Some(directives) = line["_aws"]["CloudWatchMetrics"].as_array() else { continue };
            for directive in directives {
                assert_eq!((&directive["Namespace"], &line["deployment"]), (&json!("Highwater"), &json!(DEPLOYMENT)), "{line}");
                let cluster = directive["Dimensions"][0]
                    .as_array()
                    .is_some_and(|d| d.contains(&json!("cluster")))
                    .then(|| text(&line, "cluster").to_owned());
                let values = array(&directive["Metrics"]).iter().map(|metric| text(metric, "Name"));
                found.extend(
                    values.map(|name| {
                        (name.to_owned(), cluster.clone(), line[name].as_f64().unwrap_or_else(|| panic!("no {name} in {line}")))
                    }),
                );
            }
        }
        found
    }

    // ---- state machines

    /// Starts `drill`, `drill-fleet` or `restore-primary`; returns the execution's ARN.
    pub fn start_execution(&self, machine: &str, input: &Value) -> String {
        let started = self.states("StartExecution", &json!({"stateMachineArn": self.machine(machine), "input": input.to_string()}));
        text(&started, "executionArn").to_owned()
    }

    /// An execution as `DescribeExecution` shows it.
    pub fn execution(&self, arn: &str) -> Value {
        self.states("DescribeExecution", &json!({"executionArn": arn}))
    }

    /// Waits for an execution's end. `output` is parsed; `status`, `error` and `cause` are as AWS has them.
    pub fn wait_execution(&self, arn: &str) -> Value {
        let mut ended = wait_for_within(Duration::from_secs(180), &format!("the end of {arn}"), || {
            Some(self.execution(arn)).filter(|execution| execution["status"] != "RUNNING")
        });
        if let Some(output) = ended["output"].as_str() {
            ended["output"] = serde_json::from_str(output).expect("the execution's output");
        }
        ended
    }

    /// Runs one to its end.
    pub fn execute(&self, machine: &str, input: &Value) -> Value {
        self.wait_execution(&self.start_execution(machine, input))
    }

    /// Aborts one.
    pub fn stop_execution(&self, arn: &str) {
        self.states("StopExecution", &json!({"executionArn": arn}));
    }

    /// The ARNs of a machine's executions, newest first.
    pub fn executions(&self, machine: &str) -> Vec<String> {
        let found = self.states("ListExecutions", &json!({"stateMachineArn": self.machine(machine)}));
        array(&found["executions"]).iter().map(|execution| text(execution, "executionArn").to_owned()).collect()
    }

    /// The names of the states that an execution has entered, in order.
    pub fn states_entered(&self, arn: &str) -> Vec<String> {
        let history = self.states("GetExecutionHistory", &json!({"executionArn": arn, "maxResults": 1000}));
        array(&history["events"]).iter().filter_map(|event| Some(event["stateEnteredEventDetails"]["name"].as_str()?.to_owned())).collect()
    }

    /// A machine's definition, as it is deployed.
    pub fn definition(&self, machine: &str) -> Value {
        let found = self.states("DescribeStateMachine", &json!({"stateMachineArn": self.machine(machine)}));
        serde_json::from_str(text(&found, "definition")).expect("the definition's JSON")
    }

    fn states(&self, operation: &str, request: &Value) -> Value {
        self.aws("states", &format!("AWSStepFunctions.{operation}"), request).unwrap_or_else(|e| panic!("{e:?}"))
    }

    fn machine(&self, name: &str) -> String {
        format!("arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{DEPLOYMENT}-{name}")
    }

    // ---- stores

    /// Every catalog item of a cluster, in the order of their sort keys.
    pub fn items(&self, cluster: &str) -> Vec<Value> {
        self.items_under(cluster, "")
    }

    /// Those whose sort keys begin with `prefix`.
    pub fn items_under(&self, cluster: &str, prefix: &str) -> Vec<Value> {
        let mut request = json!({
            "TableName": self.output("Catalog"), "ConsistentRead": true, "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": format!("cluster#{cluster}")}},
        });
        if !prefix.is_empty() {
            request["KeyConditionExpression"] = json!("pk = :pk AND begins_with(sk, :sk)");
            request["ExpressionAttributeValues"][":sk"] = json!({"S": prefix});
        }
        let mut items = Vec::new();
        loop {
            let page = self.aws("dynamodb", "DynamoDB_20120810.Query", &request).unwrap_or_else(|e| panic!("{e:?}"));
            items.extend(array(&page["Items"]).iter().map(|item| call::plain(&json!({"M": item}))));
            match page.get("LastEvaluatedKey") {
                Some(last) => request["ExclusiveStartKey"] = last.clone(),
                None => return items,
            }
        }
    }

    /// The backups of `orders`, in the order in which they were begun: two ids of one second do not tell it.
    pub fn backups(&self) -> Vec<Value> {
        let mut found = self.items_under("orders", "backup#");
        found.sort_by_key(|backup| backup["asked"]["token"].as_u64());
        found
    }

    /// One item, by its sort key.
    pub fn item(&self, cluster: &str, sk: &str) -> Option<Value> {
        self.items_under(cluster, sk).into_iter().find(|item| item["sk"] == sk)
    }

    /// Waits for an item whose sort key begins with `prefix` and which is as wanted; the newest of those.
    pub fn wait_for_item(&self, cluster: &str, prefix: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("an item {prefix} of {cluster} as wanted, among {:?}", self.keys_of(cluster)), || {
            self.items_under(cluster, prefix).into_iter().rev().find(&wanted)
        })
    }

    fn keys_of(&self, cluster: &str) -> Vec<String> {
        self.items(cluster).iter().map(|item| text(item, "sk").to_owned()).collect()
    }

    /// The public half of a key that signs, as PEM.
    pub fn public_key(&self, arn: &str) -> String {
        let found = self.aws("kms", "TrentService.GetPublicKey", &json!({"KeyId": arn})).unwrap_or_else(|e| panic!("{e:?}"));
        let base64 = text(&found, "PublicKey").as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
        format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n")
    }

    /// For clients of the test's own: `Table::new(&cloud.sdk(), cloud.output("Catalog"))`.
    pub fn sdk(&self) -> highwater_aws::SdkConfig {
        block_on(self.endpoint().sdk_config())
    }

    /// The bucket of the backups.
    pub fn bucket(&self) -> Bucket {
        block_on(Bucket::connect_to(self.output("Bucket"), &self.endpoint()))
    }

    /// An object's bytes.
    pub fn object(&self, key: &str) -> Vec<u8> {
        block_on(self.bucket().get(key, None, u64::MAX)).expect("get an object").to_vec()
    }

    /// A page: `index.html` is the status page. Empty while it is not there.
    pub fn page(&self, key: &str) -> String {
        let pages = block_on(Bucket::connect_to(self.output("Pages"), &self.endpoint()));
        let bytes = block_on(pages.get(key, None, u64::MAX)).unwrap_or_default();
        String::from_utf8(bytes.to_vec()).expect("a page is text")
    }

    /// Waits for a page that has all of these on it.
    pub fn wait_for_page(&self, key: &str, wanted: &[&str]) -> String {
        let lacking = || wanted.iter().filter(|part| !self.page(key).contains(**part)).collect::<Vec<_>>();
        let found = || Some(self.page(key)).filter(|page| wanted.iter().all(|part| page.contains(part)));
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(page) = found() {
                return page;
            }
            assert!(std::time::Instant::now() < limit, "{key} lacks {:?}: {}", lacking(), self.page(key));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The keys below a prefix.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        block_on(self.bucket().list(prefix)).expect("list the bucket")
    }

    /// Lets every lock below a prefix end now: what only time does on AWS, where nobody may bypass a lock.
    pub fn end_locks(&self, prefix: &str) {
        let body = "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2026-01-01T00:00:00.000Z</RetainUntilDate></Retention>";
        let headers = [("authorization", self.http.scope("s3")), ("x-amz-bypass-governance-retention", "true".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        for version in block_on(self.bucket().versions(prefix)).expect("list versions").iter().filter(|v| !v.is_marker) {
            let path = format!("/{}/{}?retention&versionId={}", self.output("Bucket"), version.key, version.version_id);
            let (status, answer) = self.http.send("PUT", &path, &headers, body.as_bytes());
            assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&answer));
        }
    }

    /// Loses what lies below a prefix, whatever locked it: a fault of the store.
    pub fn lose(&self, prefix: &str) {
        self.end_locks(prefix);
        for version in block_on(self.bucket().versions(prefix)).expect("list versions") {
            let path = format!("/{}/{}?versionId={}", self.output("Bucket"), version.key, version.version_id);
            let (status, answer) = self.http.send("DELETE", &path, &[("authorization", &self.http.scope("s3"))], b"");
            assert_eq!(status, 204, "{path}: {}", String::from_utf8_lossy(&answer));
        }
    }

    /// Puts other bytes over an object: a newer version.
    pub fn overwrite(&self, key: &str, bytes: &[u8]) {
        self.object_call("PUT", key, bytes);
    }

    /// Hides an object behind a delete marker.
    pub fn delete(&self, key: &str) {
        self.object_call("DELETE", key, b"");
    }

    fn object_call(&self, method: &str, key: &str, body: &[u8]) {
        let path = format!("/{}/{key}", self.output("Bucket"));
        let (status, answer) = self.http.send(method, &path, &[("authorization", &self.http.scope("s3"))], body);
        assert!((200..300).contains(&status), "{method} {path}: {}", String::from_utf8_lossy(&answer));
    }

    /// What an AWS client in another process needs.
    pub fn env(&self) -> [(&'static str, String); 6] {
        let key = || "test".to_owned();
        [
            ("AWS_ENDPOINT_URL", self.url().to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            // The AWS CLI's name for it.
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", key()),
            ("AWS_SECRET_ACCESS_KEY", key()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    fn endpoint(&self) -> Endpoint {
        let key = || "test".to_owned();
        Endpoint { url: self.url().to_owned(), region: REGION.into(), access_key_id: key(), secret_access_key: key() }
    }

    // ---- notifications

    fn listen_to_notifications(&self) {
        self.aws("sqs", "AmazonSQS.CreateQueue", &json!({"QueueName": "inbox"})).unwrap_or_else(|e| panic!("{e:?}"));
        let (topic, queue) =
            (format!("arn:aws:sns:{REGION}:{ACCOUNT}:{DEPLOYMENT}-notifications"), format!("arn:aws:sqs:{REGION}:{ACCOUNT}:inbox"));
        let subscription = [
            ("TopicArn", topic.as_str()),
            ("Protocol", "sqs"),
            ("Endpoint", &queue),
            ("Attributes.entry.1.key", "RawMessageDelivery"),
            ("Attributes.entry.1.value", "true"),
        ];
        self.query("sns", "Subscribe", &subscription);
    }

    /// The notifications since the last look.
    pub fn notifications(&self) -> Vec<String> {
        let url = format!("{}/{ACCOUNT}/inbox", self.url());
        let mut found = Vec::new();
        loop {
            let request = json!({"QueueUrl": url, "MaxNumberOfMessages": 10});
            let page = self.aws("sqs", "AmazonSQS.ReceiveMessage", &request).unwrap_or_else(|e| panic!("{e:?}"));
            let Some(messages) = page["Messages"].as_array().filter(|messages| !messages.is_empty()) else { return found };
            for message in messages {
                found.push(text(message, "Body").to_owned());
                let seen = json!({"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]});
                self.aws("sqs", "AmazonSQS.DeleteMessage", &seen).unwrap_or_else(|e| panic!("{e:?}"));
            }
        }
    }

    /// What the functions, hosts and the launcher logged: what one wants to read when a test fails.
    fn story(&self) -> String {
        let mut story = String::new();
        let mut add = |what: &str, log: &str| {
            if !log.trim().is_empty() {
                story.push_str(&format!("--- {what}\n{}\n", log.trim_end()));
            }
        };
        synth::FUNCTIONS.iter().for_each(|function| add(function, &self.function_log(function)));
        let hosts = std::fs::read_dir(self.scratch.join("d/hosts")).into_iter().flatten().flatten();
        for run in hosts.flat_map(|host| std::fs::read_dir(host.path().join("run")).into_iter().flatten().flatten()) {
            for stream in ["stdout", "stderr"] {
                add(&format!("{} {stream}", run.path().display()), &std::fs::read_to_string(run.path().join(stream)).unwrap_or_default());
            }
        }
        add("launcher", &std::fs::read_to_string(self.scratch.join("launcher.log")).unwrap_or_default());
        story
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.story())).unwrap_or_default());
        }
        let _ = Command::new("kill").arg(self.launcher.id().to_string()).status();
        let _ = self.launcher.wait();
    }
}

/// A text of a JSON object that must have it.
#[track_caller]
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[track_caller]
fn array(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("not an array: {value}"))
}
