//! What the tests show: the stored fixtures, promotions of every ending, and deployments in every state. Also shown to a real browser, by
//! `tests/tests/pages.rs`.

use highwater_core::approval::ApprovalV1;
use highwater_core::caller::Caller;
use highwater_core::consent::{PromotionRequest, Question, RequestState, Vote, Word};
use highwater_core::drill::DrillReportV1;
use highwater_core::plan::{RestorePlanV1, Target};
use highwater_core::promotion::{Entered, Fence, PromotionJournalV1, ReadOnly, State};
use highwater_core::rto::Measured;
use highwater_core::status::{
    Chain, ClusterStatus, Drill, DrillState, FailedBackup, LastBackup, Need, OpenRequest, Proven, RestorePoint, Rto, Running,
};
use highwater_core::{BackupId, Document, Failure, Pinned, Sha256};
use highwater_pages::{BackupView, CertificateView, ClusterView, Ending, PromotionLine, PromotionView, promotion_report};
use jiff::{SignedDuration, Timestamp};

/// What a hostile database, host or person would like to see run.
pub const EVIL: &str = "<script>document.title='run'</script><img src=x onerror=y>\"'&</code></style>";

macro_rules! sample {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/v1/", $name, ".json"))
    };
}

pub fn fixture() -> (RestorePlanV1, DrillReportV1) {
    (RestorePlanV1::parse(sample!("plan")).unwrap(), DrillReportV1::parse(sample!("drill-report")).unwrap())
}

pub fn certificate() -> CertificateView {
    CertificateView {
        uri: "s3://highwater-111122223333-eu-west-1/v1/orders/drills/20261122T090500Z-9f86d081/certificate.json".into(),
        sha256: Sha256::of(b"c"),
        key: "arn:aws:kms:eu-west-1:111122223333:key/5b1f2f4e-6a0e-4a57-9d3c-2f8f5b6c7d8e".into(),
    }
}

fn caller(name: &str) -> Caller {
    let arn = format!("arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_dba_0123456789abcdef/{name}");
    Caller { principal: format!("AROAEXAMPLE:{name}"), name: arn.clone(), arn }
}

/// A promotion that somebody asked for and somebody else approved; `requester` may be nobody known.
pub fn request(requester: Option<&str>) -> PromotionRequest {
    let approval = ApprovalV1::parse(sample!("approval")).unwrap();
    let at = |name: &str| Pinned {
        uri: format!("s3://highwater-111122223333-eu-west-1/v1/orders/drills/20261122T090500Z-9f86d081/{name}"),
        sha256: Sha256::of(name.as_bytes()),
    };
    let vote = |name: &str, minute: i64| Vote {
        by: caller(name),
        word: Word::Approve,
        at: approval.approved_at + SignedDuration::from_mins(minute),
        reason: None,
    };
    let journal = PromotionJournalV1::parse(sample!("promotion-journal")).unwrap();
    let (plan, _) = fixture();
    PromotionRequest {
        id: journal.id,
        cluster: journal.cluster,
        target: Some(Target::Latest),
        requester: requester.map(caller),
        requested_at: "2026-11-22T09:04:30Z".parse().unwrap(),
        question: Some(Question {
            drill_id: "20261122T090500Z-9f86d081".parse().unwrap(),
            backup_id: journal.backup_id,
            restores_to: plan.point.time,
            certificate: at("certificate.json"),
            plan: at("plan.json"),
            report: at("report.json"),
            host: approval.target_host,
            incarnation: plan.incarnation,
            asked_at: "2026-11-22T09:07:00Z".parse().unwrap(),
            expires_at: approval.expires_at,
            valid_hours: 24,
            approvers: 1,
        }),
        votes: match requester {
            Some(_) => vec![vote("grace", 0)],
            None => vec![vote("ada", 0), vote("grace", 5)],
        },
        state: RequestState::Approved {},
    }
}

/// The journal as the host leaves it at such an end; nothing where it never began.
pub fn journal(ending: Ending) -> Option<PromotionJournalV1> {
    let mut journal = PromotionJournalV1::parse(sample!("promotion-journal")).unwrap();
    let State::Done { staged, fence, finished_at, .. } = journal.state.clone() else { unreachable!("the sample is done") };
    let mut entered = |state: &str, seconds: i64| {
        journal.history.push(Entered { state: state.into(), at: finished_at + SignedDuration::from_secs(seconds) });
    };
    let new = staged.marks.clone();
    let was = ReadOnly { read_only: false, super_read_only: None };
    let reason = "the new primary: RowCount of `orders`.`lines`: expected exactly 1000000, found 999871".to_owned();
    journal.state = match ending {
        Ending::Promoted => return Some(journal),
        Ending::Refused => return None,
        Ending::RolledBack => {
            entered("rolling-back", 0);
            entered("rolled-back", 9);
            State::RolledBack { reason, finished_at: finished_at + SignedDuration::from_secs(9) }
        }
        Ending::Stuck => {
            entered("rolling-back", 0);
            State::RollingBack { new, was, reason }
        }
        Ending::Reverted => {
            entered("reverting", 5400);
            entered("reverted", 5407);
            State::Reverted {
                finished_at: finished_at + SignedDuration::from_secs(5407),
                promoted: Some(Fence { at: finished_at, ..fence }),
            }
        }
    };
    Some(journal)
}

pub const ENDINGS: [Ending; 5] = [Ending::Promoted, Ending::RolledBack, Ending::Refused, Ending::Stuck, Ending::Reverted];

/// The page of a promotion with this ending, whose host said `reason`.
pub fn promotion(ending: Ending, reason: &str) -> String {
    let (request, journal) = (request((ending != Ending::RolledBack).then_some("ada")), journal(ending));
    let approval = Pinned {
        uri: format!("s3://highwater-111122223333-eu-west-1/v1/orders/promotions/{}/approval.json", request.id),
        sha256: Sha256::of(sample!("approval")),
    };
    let question = request.question.as_ref().unwrap();
    promotion_report(&PromotionView {
        deployment: "highwater",
        id: &request.id,
        cluster: &request.cluster,
        host: Some(&question.host),
        backup_id: Some(&question.backup_id),
        approval: &approval,
        request: Some(&request),
        ending,
        reason,
        at: "2026-11-22T09:40:30Z".parse().unwrap(),
        journal: journal.as_ref(),
    })
}

/// What a host says in such a case.
pub fn said(ending: Ending) -> &'static str {
    match ending {
        Ending::Promoted => "the restored data serves",
        Ending::RolledBack => {
            "promotion 20261122T091500Z-0a1b failed, the old data serves again: the new primary: RowCount of `orders`.`lines`: expected exactly 1000000, found 999871"
        }
        Ending::Refused => "it expired at 2026-11-22T11:10:00Z (ask again; the primary was not touched)",
        Ending::Reverted => "an operator brought the old data back",
        Ending::Stuck => {
            "promotion 20261122T091500Z-0a1b stands still: start the server: systemctl start mariadb: timed out after 600 s (act now, as root, in this order:\n  systemctl stop mariadb   # and make sure that it has ended\n  mv -nT /var/lib/mysql /var/lib/mysql.undone-20261122T091500Z-0a1b\n  mv -nT /var/lib/mysql.old-20261122T091500Z-0a1b /var/lib/mysql\n  systemctl start mariadb\n  highwater-host promote --resume   # closes the journal)"
        }
    }
}

pub fn now() -> Timestamp {
    "2026-11-22T05:00:00Z".parse().unwrap()
}

fn id(text: &str) -> BackupId {
    text.parse().unwrap()
}

fn drill(at: &str, of: &str, state: DrillState) -> Drill {
    Drill {
        drill_id: format!("{at}-9f86d081").parse().unwrap(),
        backup_id: id(of),
        has_report: !matches!(state, DrillState::Open { .. }),
        state,
    }
}

fn took(seconds: f64) -> Option<Measured> {
    Some(Measured {
        fixed_seconds: 12.0,
        full_seconds: seconds,
        full_bytes: 1 << 40,
        incremental_seconds: 0.0,
        incremental_bytes: 0,
        incrementals: 0,
    })
}

/// A cluster that needs nobody.
pub fn cluster(name: &str) -> ClusterView {
    let backup = |text: &str, parent: Option<&str>, at: &str| BackupView {
        id: id(text),
        parent: parent.map(id),
        at: at.parse().unwrap(),
        stored: 1_130_000_000,
    };
    let old = "20261115T020000Z-full-0a0a";
    let (full, one, two) = ("20261122T020000Z-full-4f7c", "20261122T030000Z-incremental-0001", "20261122T040000Z-incremental-0002");
    let newest: Timestamp = "2026-11-22T04:00:12Z".parse().unwrap();
    let passed_at: Timestamp = "2026-11-22T02:40:00Z".parse().unwrap();
    let daily: Vec<_> = (16..=21).map(|day| format!("202611{day}T020000Z-incremental-00{day}")).collect();
    let mut backups = vec![backup(old, None, "2026-11-15T02:01:00Z")];
    for (nth, text) in daily.iter().enumerate() {
        let parent = nth.checked_sub(1).map_or(old, |before| daily[before].as_str());
        backups.push(backup(text, Some(parent), &format!("2026-11-{}T02:00:20Z", 16 + nth)));
    }
    backups.extend([
        backup(full, None, "2026-11-22T02:00:41Z"),
        backup(one, Some(full), "2026-11-22T03:00:11Z"),
        backup(two, Some(one), &newest.to_string()),
    ]);
    ClusterView {
        status: ClusterStatus {
            cluster: name.parse().unwrap(),
            host: highwater_core::cluster::Primary::Id("i-0123456789abcdef0".parse().unwrap()),
            last_backup: Some(LastBackup {
                backup_id: id(two),
                kind: id(two).kind(),
                started_at: "2026-11-22T04:00:03Z".parse().unwrap(),
                finished_at: newest,
                stored_bytes: 1_130_000_000,
            }),
            newest: Some(RestorePoint {
                backup_id: id(two),
                incarnation: fixture().0.incarnation,
                time: newest,
                last_lsn: fixture().0.point.last_lsn,
                age_seconds: now().duration_since(newest).as_secs(),
            }),
            chain: Some(Chain {
                full: id(full),
                full_taken_at: "2026-11-22T02:00:41Z".parse().unwrap(),
                backups: vec![id(full), id(one), id(two)],
                raw_bytes: 9_000_000_000,
                full_raw_bytes: 8_400_000_000,
                stored_bytes: 3_390_000_000,
            }),
            proven: Some(Proven {
                backup_id: id(full),
                time: Some("2026-11-22T02:00:41Z".parse().unwrap()),
                drill_id: "20261122T023000Z-9f86d081".parse().unwrap(),
                passed_at,
            }),
            rto: Rto { measured_seconds: Some(812.0), expected_seconds: Some(1234), target_seconds: Some(3600) },
            overdue_hours: 26,
            overdue_days: 35,
            last_failure: None,
            next_is_full: None,
            drills: vec![
                drill("20261122T023000Z", full, DrillState::Passed { at: passed_at, measured: took(800.0) }),
                drill("20261115T043000Z", old, DrillState::Passed { at: "2026-11-15T04:50:00Z".parse().unwrap(), measured: took(1320.0) }),
                drill(
                    "20261108T043000Z",
                    "20261108T020000Z-full-0b0b",
                    DrillState::Passed { at: "2026-11-08T04:48:00Z".parse().unwrap(), measured: took(1104.0) },
                ),
            ],
            running: vec![],
            requests: vec![],
            needs: vec![],
        },
        backups,
        promotions: vec![PromotionLine {
            id: "20261114T091500Z-0a1b".parse().unwrap(),
            backup_id: id("20261108T020000Z-full-0b0b"),
            ending: Some(Ending::Promoted),
            at: "2026-11-14T09:40:30Z".parse().unwrap(),
        }],
    }
}

/// A cluster in every kind of trouble, in which whatever a host or a database can say is `said`.
pub fn troubled(name: &str, said: &str) -> ClusterView {
    let mut c = cluster(name);
    let failed = FailedBackup {
        backup_id: id("20261122T043000Z-incremental-0003"),
        failure: Failure::Server,
        message: format!("connect to the server at /run/mysqld/mysqld.sock: {said}"),
        at: "2026-11-22T04:30:09Z".parse().unwrap(),
    };
    let reason = format!("1 of 5 checks failed, first RowCount of orders.lines: {said}");
    let s = &mut c.status;
    s.last_failure = Some(failed.clone());
    s.next_is_full = Some(format!("backup {} failed", failed.backup_id));
    s.rto.expected_seconds = Some(7300);
    let failed_drill = drill(
        "20261122T033000Z",
        "20261122T030000Z-incremental-0001",
        DrillState::Failed { at: "2026-11-22T03:41:00Z".parse().unwrap(), reason: reason.clone() },
    );
    s.needs = vec![
        Need::PromotionStuck {
            id: "20261122T043500Z-0a1b".parse().unwrap(),
            host: "i-0123456789abcdef0".parse().unwrap(),
            reason: said.into(),
        },
        Need::BackupsOverdue { age_seconds: Some(108_000), overdue_hours: 26 },
        Need::ChainBroken { reason: said.into() },
        Need::BackupsFailed { backup_id: failed.backup_id, failure: failed.failure, message: failed.message },
        Need::DrillsOverdue { age_seconds: Some(40 * 86_400), overdue_days: 35 },
        Need::DrillsFailed { drill_id: failed_drill.drill_id.clone(), backup_id: failed_drill.backup_id.clone(), reason },
        Need::LeaseStuck { operation: "backup 20261121T020000Z-full-4f7c".into(), expires_at: "2026-11-21T14:15:00Z".parse().unwrap() },
        Need::RtoOverTarget { expected_seconds: 7300, target_seconds: 3600 },
    ];
    s.drills.insert(0, failed_drill);
    s.drills.insert(0, drill("20261122T045000Z", "20261122T040000Z-incremental-0002", DrillState::Open { step: "running" }));
    s.running = vec![Running {
        what: "drill",
        id: "20261122T045000Z-9f86d081".into(),
        since: "2026-11-22T04:50:00Z".parse().unwrap(),
        step: Some("running"),
    }];
    s.requests = vec![OpenRequest {
        id: "20261122T044000Z-beef".parse().unwrap(),
        is_waiting: true,
        expires_at: Some("2026-11-23T04:40:00Z".parse().unwrap()),
    }];
    c.promotions.insert(
        0,
        PromotionLine {
            id: "20261122T043500Z-0a1b".parse().unwrap(),
            backup_id: id("20261122T020000Z-full-4f7c"),
            ending: Some(Ending::Stuck),
            at: "2026-11-22T04:37:00Z".parse().unwrap(),
        },
    );
    c
}

/// A cluster that was only just configured.
pub fn new_cluster(name: &str) -> ClusterView {
    let mut c = cluster(name);
    let s = &mut c.status;
    (s.last_backup, s.newest, s.chain, s.proven) = (None, None, None, None);
    s.rto = Rto { measured_seconds: None, expected_seconds: None, target_seconds: None };
    s.drills.clear();
    s.needs =
        vec![Need::BackupsOverdue { age_seconds: None, overdue_hours: 26 }, Need::DrillsOverdue { age_seconds: None, overdue_days: 35 }];
    (c.backups, c.promotions) = (vec![], vec![]);
    c
}
