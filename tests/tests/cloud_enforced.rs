//! The deployed stack with IAM's policies enforced: the normal way works with nothing but what each role was given, and whoever has
//! a host's or a drill's credentials is refused everything else.

use highwater_tests::{Cloud, Load, MariaDb, Person, Request, config_of, wait_for};
use serde_json::{Value, json};

/// A call that somebody with another's credentials tries.
struct Attempt {
    what: &'static str,
    service: &'static str,
    method: &'static str,
    path: String,
    headers: Vec<String>,
    body: String,
}

impl Attempt {
    fn s3(what: &'static str, method: &'static str, path: String) -> Self {
        Self { what, service: "s3", method, path, headers: Vec::new(), body: String::new() }
    }

    fn put(what: &'static str, path: String) -> Self {
        Self { headers: vec!["if-none-match: *".into()], body: "planted".into(), ..Self::s3(what, "PUT", path) }
    }

    fn json(what: &'static str, service: &'static str, target: &str, body: Value) -> Self {
        let headers = vec![format!("x-amz-target: {target}"), "content-type: application/x-amz-json-1.0".into()];
        Self { what, service, method: "POST", path: "/".into(), headers, body: body.to_string() }
    }

    fn by(&self, cloud: &Cloud, person: &Person) -> (u16, String) {
        let headers: Vec<&str> = self.headers.iter().map(String::as_str).collect();
        cloud.request_as(
            person,
            &Request { service: self.service, method: self.method, path: &self.path, headers: &headers, body: &self.body },
        )
    }

    fn is_denied(&self, cloud: &Cloud, person: &Person) -> bool {
        let (status, answer) = self.by(cloud, person);
        matches!(status, 400 | 403) && (answer.contains("AccessDenied") || answer.contains("not authorized to perform"))
    }
}

/// The stack with two clusters, and a committed chain of `orders` made under enforcement.
struct Scene {
    cloud: Cloud,
    bucket: String,
    /// The full's prefix, with a slash.
    backup: String,
    /// That of a backup of another cluster.
    of_another: String,
    _db: MariaDb,
}

impl Scene {
    fn new() -> Self {
        let (cloud, db) = (Cloud::enforcing(&config_of(&["orders", "billing"])), MariaDb::start());
        Load::fill(&db, 200);
        {
            let _host = cloud.host("orders", &db);
            for n in 1..=2 {
                Load::fill(&db, 50);
                cloud.fire("backup-orders");
                wait_for(&format!("backup {n}"), || {
                    let backups = cloud.backups();
                    (backups.len() == n && backups.iter().all(|b| b["state"] == "committed" && b["open"].is_null())).then_some(())
                });
            }
        }
        let manifest = cloud.keys("v1/orders/").into_iter().find(|key| key.ends_with("manifest.json")).unwrap();
        let backup = manifest.trim_end_matches("manifest.json").to_owned();
        let of_another = backup.replace("/orders/", "/billing/");
        let bucket = cloud.output("Bucket").to_owned();
        let scene = Self { cloud, bucket, backup, of_another, _db: db };
        let planted = scene.at(&format!("{}data-000", scene.of_another));
        assert_eq!(Attempt::put("another cluster's backup", planted).by(&scene.cloud, &Person::account()).0, 200);
        scene
    }

    fn at(&self, key: &str) -> String {
        format!("/{}/{key}", self.bucket)
    }

    fn own(&self, name: &str) -> String {
        self.at(&format!("{}{name}", self.backup))
    }

    /// What nobody on a host or a drill's instance may do. `Attempt`s that write take a new key each.
    fn forbidden_to_both(&self, object: &str) -> Vec<Attempt> {
        let catalog = self.cloud.output("Catalog");
        let key = json!({"pk": {"S": "cluster#orders"}, "sk": {"S": "head"}});
        let dynamodb = |what, operation: &str, more: Value| {
            let mut request = json!({"TableName": catalog});
            request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Attempt::json(what, "dynamodb", &format!("DynamoDB_20120810.{operation}"), request)
        };
        let lock = "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2027-01-01T00:00:00Z</RetainUntilDate></Retention>";
        let retention = format!("{}?retention=", self.own(object));
        vec![
            Attempt { body: lock.into(), ..Attempt::s3("change a lock", "PUT", retention.clone()) },
            Attempt {
                headers: vec!["x-amz-bypass-governance-retention: true".into()],
                body: lock.into(),
                ..Attempt::s3("bypass a lock", "PUT", retention)
            },
            Attempt { headers: vec![], ..Attempt::put("overwrite", self.own(object)) },
            Attempt::s3("read another cluster", "GET", self.at(&format!("{}data-000", self.of_another))),
            Attempt::put("write another cluster", self.at(&format!("{}data-001", self.of_another))),
            Attempt::put("write a request", self.at("v1/orders/requests/20270101T000000Z-full-0001.json")),
            Attempt::put("write a plan", self.at("v1/orders/drills/d1/plan.json")),
            Attempt::put("write a certificate", self.at("v1/orders/drills/d1/certificate.json")),
            Attempt::put("write an approval", self.at("v1/orders/promotions/20270101T000000Z-0001/approval.json")),
            Attempt::put("write elsewhere", self.at("v2/orders/x")),
            dynamodb("read the catalog", "GetItem", json!({"Key": key})),
            dynamodb(
                "query the catalog",
                "Query",
                json!({"KeyConditionExpression": "pk = :p", "ExpressionAttributeValues": {":p": {"S": "cluster#orders"}}}),
            ),
            dynamodb("write the catalog", "PutItem", json!({"Item": {"pk": {"S": "cluster#x"}, "sk": {"S": "head"}}})),
            dynamodb("delete from the catalog", "DeleteItem", json!({"Key": {"pk": {"S": "cluster#x"}, "sk": {"S": "head"}}})),
            Attempt::json("read a cluster's parameter", "ssm", "AmazonSSM.GetParameter", json!({"Name": "/highwater/clusters/orders"})),
            Attempt::json(
                "start a promotion",
                "states",
                "AWSStepFunctions.StartExecution",
                json!({"stateMachineArn": self.machine("restore-primary"), "input": "{}"}),
            ),
            Attempt::json(
                "start a drill",
                "states",
                "AWSStepFunctions.StartExecution",
                json!({"stateMachineArn": self.machine("drill"), "input": "{}"}),
            ),
            Attempt::json(
                "sign",
                "kms",
                "TrentService.Sign",
                json!({"KeyId": self.cloud.output("SigningKey"), "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"}),
            ),
            Attempt {
                service: "lambda",
                method: "POST",
                path: "/2015-03-31/functions/highwater-decide-approval/invocations".into(),
                body: "{}".into(),
                ..Attempt::s3("call a function", "POST", String::new())
            },
            Attempt::s3("hide what it may read", "DELETE", self.own(object)),
        ]
    }

    fn machine(&self, name: &str) -> String {
        format!("arn:aws:states:eu-west-1:000000000000:stateMachine:highwater-{name}")
    }

    /// Each is denied to them, and done for the account, which shows that the request is one.
    fn denied(&self, person: &Person, attempts: Vec<Attempt>) {
        for attempt in attempts {
            assert!(attempt.is_denied(&self.cloud, person), "{} may {}: {:?}", person.arn, attempt.what, attempt.by(&self.cloud, person));
            let (status, answer) = attempt.by(&self.cloud, &Person::account());
            assert!(matches!(status, 200 | 204), "{} is no good request: {status}: {answer}", attempt.what);
        }
    }

    fn allowed(&self, person: &Person, attempts: Vec<Attempt>) {
        for attempt in attempts {
            let (status, answer) = attempt.by(&self.cloud, person);
            assert_eq!(status, 200, "{} may not {}: {answer}", person.arn, attempt.what);
        }
    }
}

#[test]
fn i7_the_normal_way_works_under_enforcement_and_host_and_drill_can_do_nothing_else() {
    let scene = Scene::new();
    let cloud = &scene.cloud;
    let drilled = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!((&drilled["status"], &drilled["output"]["outcome"]), (&json!("SUCCEEDED"), &json!("passed")), "{drilled}");

    let host = cloud.role_of("i-0db00000000000000");
    assert_eq!(host.arn, "db-orders");
    scene.allowed(
        &host,
        vec![
            Attempt::s3("read its own manifest", "GET", scene.own("manifest.json")),
            Attempt::put("write new data", scene.own("data-777")),
            Attempt::s3("list its own cluster", "GET", format!("/{}?list-type=2&prefix=v1%2Forders%2F", scene.bucket)),
        ],
    );
    let mut forbidden = scene.forbidden_to_both("manifest.json");
    forbidden.push(Attempt::put("write a report", scene.at("v1/orders/drills/d1/report.json")));
    scene.denied(&host, forbidden);

    // The drill's role by an instance that is nobody's drill.
    let image = json!({"path": [cloud.scratch().join("image")], "env": {"HIGHWATER_SCRATCH": cloud.scratch().path()}});
    let order = json!({"instance_id": "i-0dead0000000000d1", "profile": "highwater-drill-orders", "tags": {}, "host": image});
    cloud.control("POST", "hosts", &order);
    wait_for("the instance", || (cloud.control("GET", "hosts/i-0dead0000000000d1", &json!({}))["state"] == "running").then_some(()));
    let drill = cloud.role_of("i-0dead0000000000d1");
    scene.allowed(
        &drill,
        vec![
            Attempt::s3("read data", "GET", scene.own("data-777")),
            Attempt::put("write a report", scene.at("v1/orders/drills/d2/report.json")),
        ],
    );
    // What the account has done for the host is not done again: other keys.
    let another = |path: String| path.replace("/d1/", "/d3/").replace("-0001", "-0002").replace("data-001", "data-002").replace("/x", "/y");
    let mut forbidden: Vec<_> = scene.forbidden_to_both("data-777").into_iter().map(|a| Attempt { path: another(a.path), ..a }).collect();
    forbidden.push(Attempt::put("write data", scene.own("data-778")));
    scene.denied(&drill, forbidden);

    // The task of another machine cannot be answered with a drill's role, even by whoever has its token.
    let answer = |token: &str| {
        Attempt::json("answer a task", "states", "AWSStepFunctions.SendTaskSuccess", json!({"taskToken": token, "output": "{}"}))
    };
    assert!(answer("nobody's").is_denied(cloud, &drill));
}
