//! The commands that the README and the runbook tell people to type are run, in the order of [`RUNS`], as they stand there:
//! only the words in capitals, and directories of a host, are replaced. A command that is new, changed or gone fails the test.

use highwater_tests::{Cloud, Host, Load, MariaDb, S3, Scratch, binary, config, tool, wait_for};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

/// What becomes of a command.
#[derive(Debug, Clone, Copy)]
enum How {
    /// Run, with this exit code, or one of these.
    Exits(&'static [i32]),
    /// Run by what is named here, since it builds, deploys or waits for other people.
    By(&'static str),
}
use How::{By, Exits};

const DONE: How = Exits(&[0]);
/// `status` tells with 3 that somebody is needed.
const TOLD: How = Exits(&[0, 3]);

/// Every command of the documents, in an order in which they make sense.
const RUNS: &[(&str, How)] = &[
    ("make demo", By("a person; its steps are those of `cloud_restore` and `cloud_drill`")),
    ("make test", By("CI")),
    ("make torture", By("a person")),
    ("make package", By("`package`, with debug binaries")),
    ("cd infra/cdk && npm ci && npx cdk deploy -c config=my.yaml", By("`cloud_deploy`, which does what `cdk deploy` does")),
    (
        "aws ssm send-command --document-name highwater-install --instance-ids i-0123456789abcdef0 --parameters cluster=orders",
        By("`cloud_install`"),
    ),
    ("highwater status", TOLD),
    ("highwater backups --cluster orders", DONE),
    ("highwater backup now --cluster orders", DONE),
    ("highwater drill --cluster orders", DONE),
    ("highwater certificate verify --cluster orders", DONE),
    ("highwater restore --cluster orders --target 2026-11-22T02:00:00Z", By("`cloud_cli`, where somebody else approves")),
    ("highwater approvals --cluster orders", DONE),
    ("highwater fetch --cluster orders --into /srv/orders", DONE),
    ("highwater prune --dry-run --cluster orders", DONE),
    ("highwater catalog audit --cluster orders", DONE),
    ("highwater cost", DONE),
    ("highwater completions bash", DONE),
    // The runbook.
    ("aws s3 presign s3://DEPLOYMENT-pages-ACCOUNT-REGION/index.html", DONE),
    ("aws s3 sync s3://DEPLOYMENT-pages-ACCOUNT-REGION pages", DONE),
    ("highwater backups --cluster CLUSTER", DONE),
    ("highwater show BACKUP --cluster CLUSTER", DONE),
    ("aws logs filter-log-events --log-group-name /aws/lambda/DEPLOYMENT-finish-backup --query 'events[-20:].message' --output text", DONE),
    ("aws logs filter-log-events --log-group-name /aws/lambda/DEPLOYMENT-reconcile --query 'events[-20:].message' --output text", DONE),
    (
        "aws logs filter-log-events --log-group-name /aws/lambda/DEPLOYMENT-reconcile --filter-pattern leaked --query 'events[-20:].message' --output text",
        DONE,
    ),
    (
        "aws logs filter-log-events --log-group-name /aws/lambda/DEPLOYMENT-NAME --filter-pattern ERROR --query 'events[-20:].message' --output text",
        DONE,
    ),
    ("highwater status --cluster CLUSTER", TOLD),
    ("aws scheduler get-schedule --group-name DEPLOYMENT --name backup-CLUSTER", DONE),
    ("sudo highwater-host doctor --bucket BUCKET", DONE),
    ("highwater backup now --cluster CLUSTER", DONE),
    ("aws ssm get-command-invocation --command-id COMMAND --instance-id HOST", DONE),
    ("highwater audit --cluster CLUSTER", DONE),
    ("highwater backup now --cluster CLUSTER --full", DONE),
    ("highwater drill --cluster CLUSTER", DONE),
    ("aws ec2 describe-instances --filters Name=tag:highwater:drill,Values=DRILL", DONE),
    (
        "aws ec2 describe-instances --filters Name=tag:highwater:deployment,Values=DEPLOYMENT Name=instance-state-name,Values=pending,running,stopping,stopped",
        DONE,
    ),
    ("aws ec2 terminate-instances --instance-ids INSTANCE", By("`cloud_drill`: reconcile does it, and a person's is the same call")),
    ("highwater prune --dry-run --cluster CLUSTER", DONE),
    ("sudo highwater fetch --cluster CLUSTER --into /var/lib/mysql-restored", DONE),
    ("highwater plan --bucket BUCKET --cluster CLUSTER --target latest --out plan.json", DONE),
    ("sudo highwater-host restore --plan plan.json --into /var/lib/mysql-planned", DONE),
    ("sudo highwater-host restore --plan plan.json --into DIR", DONE),
    ("highwater fetch --cluster CLUSTER --target 2026-11-22T02:00:00Z --into DIR", Exits(&[11])),
    ("aws s3api list-object-versions --bucket BUCKET --prefix KEY", DONE),
    ("highwater certificate verify --help", DONE),
    ("highwater catalog rebuild --cluster CLUSTER --key PUBLIC-KEY", DONE),
    ("highwater catalog audit --cluster CLUSTER --key PUBLIC-KEY", DONE),
    ("highwater plan --copied --bucket VAULT --cluster CLUSTER --target latest --out plan.json", By("`vault`")),
    ("aws ssm send-command --document-name DEPLOYMENT-install --instance-ids HOST", By("`cloud_install`")),
    ("sudo highwater-host promote --resume", By("`promote`, on a promotion that was cut off")),
    ("aws ssm send-command --document-name DEPLOYMENT-resume --instance-ids HOST", By("`cloud_promote`, on a promotion that is stuck")),
    ("aws ssm send-command --document-name DEPLOYMENT-rollback --instance-ids HOST", By("`cloud_promote`, after a promotion")),
];

/// The README's way without a control plane, in its order.
const WITHOUT_CONTROL_PLANE: &[&str] = &[
    "highwater backups --bucket my-backups --cluster orders",
    "highwater next-backup --bucket my-backups --cluster orders --out request.json",
    "highwater-host backup --request request.json",
    "highwater plan --bucket my-backups --cluster orders --target latest --out plan.json",
    "highwater-host drill --plan plan.json --work /srv/drill --report report.json",
    "highwater write-approval --plan plan.json --report report.json --host i-0123456789abcdef0 --requester alice --approver bob --out approval.json",
    "highwater-host promote --plan plan.json --report report.json --approval approval.json",
    "highwater-host rollback",
];

/// The commands of a document: the lines of its console blocks, and the words in backticks that begin with a program and have an option.
fn commands(document: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let mut found = BTreeSet::new();
    for (n, part) in text.split("```").enumerate() {
        if n % 2 == 1 {
            let lines = part.replace("\\\n", " ");
            let typed = lines.lines().filter_map(|line| line.trim().strip_prefix("$ "));
            found.extend(typed.map(|line| words(line.split("  #").next().unwrap_or(line).split(" # ").next().unwrap_or(line))));
        } else {
            let spans = part.split('`').skip(1).step_by(2).map(words);
            let programs = ["aws ", "highwater ", "sudo highwater", "highwater-host ", "npx "];
            let is_command = |span: &String| programs.iter().any(|p| span.starts_with(p)) && span.contains(" --") && !span.contains('…');
            found.extend(spans.filter(is_command));
        }
    }
    found
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_command_of_the_documents_is_known_here() {
    let known: BTreeSet<String> = RUNS.iter().map(|run| run.0).chain(WITHOUT_CONTROL_PLANE.iter().copied()).map(str::to_owned).collect();
    let mut documented = commands("README.md");
    documented.extend(commands("docs/RUNBOOK.md"));
    // The README names two more in passing.
    let passing = BTreeSet::from(["highwater-host doctor --bucket BUCKET".to_owned()]);
    let unknown: Vec<_> = documented.difference(&known).filter(|command| !passing.contains(*command)).collect();
    let gone: Vec<_> = known.difference(&documented).collect();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (command, how) in RUNS {
        let By(whom) = how else { continue };
        let named: Vec<_> = whom.split('`').skip(1).step_by(2).collect();
        let missing = named.iter().find(|name| !name.contains(' ') && !tests.join(format!("{name}.rs")).exists());
        assert!(missing.is_none(), "{command}: no test {missing:?}");
    }
    assert!(unknown.is_empty() && gone.is_empty(), "not run here: {unknown:#?}\nin no document: {gone:#?}");
}

#[test]
fn what_the_documents_tell_people_to_type_works() {
    let mut config = config();
    config["clusters"]["orders"]["backup"]["max_incrementals"] = 6.into();
    let cloud = Cloud::deployed(&config);
    let db = MariaDb::start();
    Load::fill(&db, 200);
    let host = cloud.host("orders", &db);
    cloud.fire("backup-orders");
    cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed" && item["open"].is_null());
    cloud.fire("fleet-reconcile");
    wait_for("reconcile's log", || (!cloud.function_log("reconcile").is_empty()).then_some(()));

    let place = Scratch::new("docs");
    let bin = place.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(binary("highwater"), bin.join("highwater")).unwrap();
    std::os::unix::fs::symlink(tool("peers/bin/aws"), bin.join("aws")).unwrap();
    place.script("bin/sudo", "exec \"$@\"");
    let path = format!("{}:{}:{}", bin.display(), host.directory().join("bin").display(), std::env::var("PATH").unwrap());
    let key = place.join("public-key.der");
    std::fs::write(&key, cloud.public_key(cloud.output("SigningKey"))).unwrap();

    let newest = |prefix: &str, of: &str| -> String {
        let item = cloud.items("orders").into_iter().rev().find(|item| item["sk"].as_str().is_some_and(|sk| sk.starts_with(prefix)));
        item.and_then(|item| item[of].as_str().map(str::to_owned)).unwrap_or_else(|| panic!("no {prefix} with {of}"))
    };
    let ada = cloud.user("ada");
    let (mut run, mut directory) = (0, 0);
    for (command, how) in RUNS {
        let Exits(codes) = how else { continue };
        let mut typed = (*command).to_owned();
        // Every command gets a directory of its own: a restore refuses one that is used.
        directory += 1;
        let into = place.join(format!("into-{directory}"));
        for (word, is) in [
            ("DEPLOYMENT-NAME", "DEPLOYMENT-start-backup".to_owned()),
            ("DEPLOYMENT-pages-ACCOUNT-REGION", format!("{}-pages-000000000000-eu-west-1", "highwater")),
            ("PUBLIC-KEY", key.display().to_string()),
            ("DEPLOYMENT", "highwater".to_owned()),
            ("CLUSTER", "orders".to_owned()),
            ("HOST", host.instance().to_owned()),
            ("BUCKET", cloud.output("Bucket").to_owned()),
            ("KEY", "v1/orders/".to_owned()),
            ("/var/lib/mysql-restored", into.display().to_string()),
            ("/var/lib/mysql-planned", into.display().to_string()),
            ("/srv/orders", into.display().to_string()),
            ("--into DIR", format!("--into {}", into.display())),
        ] {
            typed = typed.replace(word, &is);
        }
        if typed.contains("BACKUP") {
            typed = typed.replace("BACKUP", &newest("backup#", "backup_id"));
        }
        if typed.contains("DRILL") {
            typed = typed.replace("DRILL", &newest("drill#", "drill_id"));
        }
        if typed.contains("COMMAND") {
            let of_host = serde_json::json!({"InstanceId": host.instance()});
            let sent = cloud.aws("ssm", "AmazonSSM.ListCommandInvocations", &of_host).unwrap_or_else(|e| panic!("{e:?}"));
            typed = typed.replace("COMMAND", sent["CommandInvocations"][0]["CommandId"].as_str().expect("a command"));
        }
        let mut shell = Command::new("bash");
        shell.args(["-c", &typed]).env("PATH", &path).envs(cloud.env());
        // Whoever asks about approvals is somebody.
        shell.envs(ada.env().iter().filter(|_| typed.starts_with("highwater ")).copied());
        shell.env("HIGHWATER_APPROVAL_URL", cloud.approval_url()).current_dir(place.path()).stdin(Stdio::null());
        let output = shell.output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        assert!(codes.contains(&code), "{typed}\nended with {code}, not {codes:?}:\n{}{}", said(&output.stdout), said(&output.stderr));
        run += 1;
    }
    assert!(run > 30, "only {run} commands were run");
}

#[test]
fn the_readmes_way_without_a_control_plane_works() {
    let (db, s3) = (MariaDb::start(), S3::start_on_disk());
    Load::fill(&db, 200);
    let mut host = Host::new(&db, &s3);
    host.promotable(&db).as_root(&db);
    let place = Scratch::new("docs");
    place.script("highwater-host", &format!("exec {:?} --config {:?} \"$@\"", binary("highwater-host"), host.config()));
    std::os::unix::fs::symlink(binary("highwater"), place.join("highwater")).unwrap();
    let path = format!("{}:{}", place.path().display(), std::env::var("PATH").unwrap());
    for command in WITHOUT_CONTROL_PLANE {
        let typed = command
            .replace("my-backups", "backups")
            .replace("--cluster orders", "--cluster shop")
            .replace("i-0123456789abcdef0", "db-1")
            .replace("/srv/drill", &place.join("drill").display().to_string());
        let mut shell = Command::new("bash");
        shell.args(["-c", &typed]).env("PATH", &path).envs(s3.env()).current_dir(place.path()).stdin(Stdio::null());
        let output = shell.output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "{typed}: {}\n{said}", output.status);
    }
}
