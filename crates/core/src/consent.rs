//! How a promotion is agreed to: a request, votes, and what they add up to. Pure; the shell records every vote before
//! it acts on it.
//!
//! One person never does it alone: where the requester is known, as many other callers as the deployment asks for have to approve
//! (one at least); where nobody knows who started it (a console start), one more. One denial ends it. What is approved is one certificate for one host, as long as no
//! newer request and no newer incarnation of the cluster exist; anything else voids the request, and nothing happens.

use crate::Sha256;
use crate::approval::{ApprovalV1, UNKNOWN_REQUESTER};
use crate::caller::Caller;
use crate::document::{Document, Pinned};
use crate::ids::{BackupId, ClusterId, DrillId, HostId, Incarnation};
use crate::plan::Target;
use crate::promotion::PromotionId;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A request for a promotion, from its asking to its end. Its id is the promotion's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromotionRequest {
    /// Names the request, and the promotion that may follow.
    pub id: PromotionId,
    /// The cluster.
    pub cluster: ClusterId,
    /// What is to be restored, as it was asked for; absent when the console asked.
    pub target: Option<Target>,
    /// Who asked; absent when nobody knows.
    pub requester: Option<Caller>,
    /// When.
    pub requested_at: Timestamp,
    /// What the voters are asked; absent until its drill has passed.
    pub question: Option<Question>,
    /// Every vote, in order.
    pub votes: Vec<Vote>,
    /// How far it is.
    pub state: RequestState,
}

/// How far a request is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RequestState {
    /// Its drill runs.
    Drilling {},
    /// Votes are awaited.
    Waiting {},
    /// Enough approved: the promotion may begin.
    Approved {},
    /// Somebody denied it.
    Denied {},
    /// It can no longer be decided.
    Void {
        /// Why.
        reason: String,
    },
}

/// What is approved or denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The drill that proved the restore point.
    pub drill_id: DrillId,
    /// The restore point.
    pub backup_id: BackupId,
    /// Its time, by the host's clock: what was written later is lost.
    pub restores_to: Timestamp,
    /// The drill's certificate.
    pub certificate: Pinned,
    /// The plan.
    pub plan: Pinned,
    /// The drill's report.
    pub report: Pinned,
    /// The host whose data is replaced.
    pub host: HostId,
    /// The cluster's newest incarnation when it was asked.
    pub incarnation: Incarnation,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// No vote counts from this moment on.
    pub expires_at: Timestamp,
    /// An approval allows the promotion for so long.
    pub valid_hours: u32,
    /// How many callers have to approve beside the requester, whoever that is.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub approvers: u32,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_one(n: &u32) -> bool {
    *n == 1
}

/// One caller's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// Whose.
    pub by: Caller,
    /// Yes or no.
    pub word: Word,
    /// When.
    pub at: Timestamp,
    /// Why, if it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Yes.
    Approve,
    /// No.
    Deny,
}

/// What must still be as it was when the question was asked.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The cluster's newest request.
    pub newest_request: &'a PromotionId,
    /// The cluster's newest incarnation, if it has one.
    pub newest_incarnation: Option<&'a Incarnation>,
    /// The clock.
    pub now: Timestamp,
}

/// The digests of what a promotion would be done by: all of them have to be what was approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The approval's.
    pub approval: Sha256,
    /// The certificate's.
    pub certificate: Sha256,
    /// That of the plan that the certificate names.
    pub plan: Sha256,
    /// That of its report.
    pub report: Sha256,
}

/// What a vote did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// It is recorded in the request returned.
    Changed(Box<PromotionRequest>),
    /// This caller had said so before: one vote, however often it is sent.
    Again,
}

/// Why a vote does not count, or a promotion does not begin. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsentError {
    /// There is nothing to decide yet.
    #[error("the drill of request {0} has not ended: there is nothing to decide yet")]
    NotAsked(PromotionId),
    /// It was decided or became void.
    #[error("request {id} is {state}: it cannot be decided any more")]
    Closed {
        /// The request.
        id: PromotionId,
        /// How it ended.
        state: String,
    },
    /// Too late.
    #[error("request {id} expired at {at}: ask again")]
    Expired {
        /// The request.
        id: PromotionId,
        /// When.
        at: Timestamp,
    },
    /// The requester approves.
    #[error("{by} asked for this promotion: somebody else has to approve it")]
    OwnRequest {
        /// Who.
        by: String,
    },
    /// Another certificate was meant.
    #[error("request {id} rests on certificate {bound}, the vote names {named}: read the question again")]
    OtherCertificate {
        /// The request.
        id: PromotionId,
        /// What the request rests on.
        bound: Sha256,
        /// What the vote names.
        named: Sha256,
    },
    /// A newer request.
    #[error("request {id} is superseded by {by}")]
    Superseded {
        /// The request.
        id: PromotionId,
        /// The newer one.
        by: PromotionId,
    },
    /// A newer incarnation.
    #[error("the data of {cluster} was replaced since request {id} was made: its newest incarnation was {was} and is {now}")]
    NewIncarnation {
        /// The request.
        id: PromotionId,
        /// The cluster.
        cluster: ClusterId,
        /// When it was asked.
        was: Incarnation,
        /// Now.
        now: String,
    },
    /// Not approved.
    #[error("request {id} is {state}, not approved")]
    NotApproved {
        /// The request.
        id: PromotionId,
        /// How far it is.
        state: String,
    },
    /// The host of the cluster is another one now.
    #[error("request {id} is for host {bound}, the cluster's host is {now}")]
    OtherHost {
        /// The request.
        id: PromotionId,
        /// What was approved.
        bound: HostId,
        /// The configuration.
        now: HostId,
    },
    /// Another document than the one approved.
    #[error("request {id} approved the {what} {bound}, this is {found}")]
    OtherDocument {
        /// The request.
        id: PromotionId,
        /// Which.
        what: &'static str,
        /// What was approved.
        bound: Sha256,
        /// What was shown.
        found: Sha256,
    },
}

impl RequestState {
    /// For a person.
    pub fn describe(&self) -> String {
        match self {
            Self::Drilling {} => "drilling".into(),
            Self::Waiting {} => "waiting".into(),
            Self::Approved {} => "approved".into(),
            Self::Denied {} => "denied".into(),
            Self::Void { reason } => format!("void ({reason})"),
        }
    }

    /// Whether nothing can follow any more by votes.
    pub fn is_closed(&self) -> bool {
        !matches!(self, Self::Drilling {} | Self::Waiting {})
    }
}

impl PromotionRequest {
    /// How many callers other than the requester have to approve. An unknown requester may be one of the callers.
    pub fn approvals_needed(&self) -> usize {
        let beside = self.question.as_ref().map_or(1, |question| question.approvers.max(1)) as usize;
        if self.requester.is_some() { beside } else { beside + 1 }
    }

    /// Who approved, each once.
    pub fn approvers(&self) -> Vec<&Caller> {
        let mut approvers: Vec<&Caller> = Vec::new();
        for vote in self.votes.iter().filter(|v| v.word == Word::Approve) {
            if !approvers.iter().any(|a| a.is(&vote.by)) {
                approvers.push(&vote.by);
            }
        }
        approvers
    }

    /// Counts a vote. `certificate` is what the voter read; a denial need not name it, and may come before
    /// the question. The requester may deny: that withdraws the request.
    ///
    /// # Errors
    /// Why it does not count. Nothing is recorded then.
    pub fn vote(&self, vote: Vote, certificate: Option<Sha256>, situation: Situation<'_>) -> Result<Counted, ConsentError> {
        if self.votes.iter().any(|v| v.by.is(&vote.by) && v.word == vote.word) {
            return Ok(Counted::Again);
        }
        if self.state.is_closed() {
            return Err(ConsentError::Closed { id: self.id.clone(), state: self.state.describe() });
        }
        if vote.word == Word::Approve {
            let question = self.question.as_ref().filter(|_| self.state == RequestState::Waiting {});
            let question = question.ok_or_else(|| ConsentError::NotAsked(self.id.clone()))?;
            self.refuse_expired(question, situation.now)?;
            if self.requester.as_ref().is_some_and(|r| r.is(&vote.by)) {
                return Err(ConsentError::OwnRequest { by: vote.by.to_string() });
            }
            let named = certificate.unwrap_or(Sha256::of(b""));
            if named != question.certificate.sha256 {
                return Err(ConsentError::OtherCertificate { id: self.id.clone(), bound: question.certificate.sha256, named });
            }
            self.refuse_superseded(situation)?;
        }
        let mut voted = self.clone();
        let word = vote.word;
        voted.votes.push(vote);
        match word {
            Word::Deny => voted.state = RequestState::Denied {},
            Word::Approve if voted.approvers().len() >= voted.approvals_needed() => voted.state = RequestState::Approved {},
            Word::Approve => {}
        }
        Ok(Counted::Changed(Box::new(voted)))
    }

    fn refuse_expired(&self, question: &Question, now: Timestamp) -> Result<(), ConsentError> {
        if now < question.expires_at { Ok(()) } else { Err(ConsentError::Expired { id: self.id.clone(), at: question.expires_at }) }
    }

    /// Whether a newer request or a newer incarnation has taken this request's place.
    ///
    /// # Errors
    /// Which.
    pub fn refuse_superseded(&self, situation: Situation<'_>) -> Result<(), ConsentError> {
        if *situation.newest_request != self.id {
            return Err(ConsentError::Superseded { id: self.id.clone(), by: situation.newest_request.clone() });
        }
        match &self.question {
            Some(question) if situation.newest_incarnation != Some(&question.incarnation) => Err(ConsentError::NewIncarnation {
                id: self.id.clone(),
                cluster: self.cluster.clone(),
                was: question.incarnation.clone(),
                now: situation.newest_incarnation.map_or_else(|| "unknown".into(), ToString::to_string),
            }),
            _ => Ok(()),
        }
    }

    /// The document that the host asks for; none unless the request is approved. The same every time.
    pub fn approval(&self) -> Option<ApprovalV1> {
        let (RequestState::Approved {}, Some(question)) = (&self.state, &self.question) else { return None };
        let approved_at = self.votes.iter().rev().find(|v| v.word == Word::Approve)?.at;
        Some(ApprovalV1 {
            format: ApprovalV1::FORMAT.to_owned(),
            cluster: self.cluster.clone(),
            plan_sha256: question.plan.sha256,
            report_sha256: question.report.sha256,
            target_host: question.host.clone(),
            requester: self.requester.as_ref().map_or_else(|| UNKNOWN_REQUESTER.to_owned(), ToString::to_string),
            approvers: self.approvers().iter().map(ToString::to_string).collect(),
            approved_at,
            expires_at: approved_at.saturating_add(SignedDuration::from_hours(question.valid_hours.into())).unwrap_or(Timestamp::MAX),
        })
    }

    /// Whether the promotion may begin now: what was approved is what will be done, where and when it was approved.
    ///
    /// # Errors
    /// The first mismatch.
    pub fn may_promote(&self, shown: Shown, host: &HostId, situation: Situation<'_>) -> Result<(), ConsentError> {
        let (Some(document), Some(question)) = (self.approval(), &self.question) else {
            return Err(ConsentError::NotApproved { id: self.id.clone(), state: self.state.describe() });
        };
        let same = |what, bound: Sha256, found| match bound == found {
            true => Ok(()),
            false => Err(ConsentError::OtherDocument { id: self.id.clone(), what, bound, found }),
        };
        same("approval", Sha256::of(&document.to_bytes()), shown.approval)?;
        same("certificate", question.certificate.sha256, shown.certificate)?;
        same("plan", question.plan.sha256, shown.plan)?;
        same("report", question.report.sha256, shown.report)?;
        if *host != question.host {
            return Err(ConsentError::OtherHost { id: self.id.clone(), bound: question.host.clone(), now: host.clone() });
        }
        if situation.now >= document.expires_at {
            return Err(ConsentError::Expired { id: self.id.clone(), at: document.expires_at });
        }
        self.refuse_superseded(situation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(hours: i64) -> Timestamp {
        "2026-11-22T02:00:00Z".parse::<Timestamp>().unwrap().saturating_add(SignedDuration::from_hours(hours)).unwrap()
    }

    fn id(text: &str) -> PromotionId {
        text.parse().unwrap()
    }

    fn caller(role: u8, session: u8) -> Caller {
        let (arn, id) = (format!("arn:aws:sts::111122223333:assumed-role/r{role}/s{session}"), format!("AROA{role}:s{session}"));
        Caller::vouched(&arn, &id, &[]).unwrap()
    }

    fn document(name: &str) -> Pinned {
        Pinned { uri: format!("s3://backups/v1/orders/drills/d1/{name}.json"), sha256: Sha256::of(name.as_bytes()) }
    }

    fn request(requester: Option<Caller>) -> PromotionRequest {
        PromotionRequest {
            id: id("20261122T020000Z-0001"),
            cluster: "orders".parse().unwrap(),
            target: None,
            requester,
            requested_at: at(0),
            question: Some(Question {
                drill_id: "20261122T015900Z-4f7c90ab".parse().unwrap(),
                backup_id: "20261122T010000Z-full-4f7c".parse().unwrap(),
                restores_to: at(-1),
                certificate: document("certificate"),
                plan: document("plan"),
                report: document("report"),
                host: "db-1".parse().unwrap(),
                incarnation: "20261101T000000Z-0001".parse().unwrap(),
                asked_at: at(0),
                expires_at: at(24),
                valid_hours: 12,
                approvers: 1,
            }),
            votes: Vec::new(),
            state: RequestState::Waiting {},
        }
    }

    /// What the tests change of a vote's circumstances.
    #[derive(Clone)]
    struct Case {
        newest: PromotionId,
        incarnation: Option<Incarnation>,
        now: Timestamp,
        certificate: Option<Sha256>,
    }

    fn usual() -> Case {
        let question = request(None).question.unwrap();
        Case {
            newest: request(None).id,
            incarnation: Some(question.incarnation),
            now: at(1),
            certificate: Some(question.certificate.sha256),
        }
    }

    impl Case {
        fn situation(&self) -> Situation<'_> {
            Situation { newest_request: &self.newest, newest_incarnation: self.incarnation.as_ref(), now: self.now }
        }
        fn vote(&self, request: &PromotionRequest, by: Caller, word: Word) -> Result<Counted, ConsentError> {
            request.vote(Vote { by, word, at: self.now, reason: None }, self.certificate, self.situation())
        }
        fn changed(&self, request: &PromotionRequest, by: Caller, word: Word) -> PromotionRequest {
            match self.vote(request, by, word) {
                Ok(Counted::Changed(request)) => *request,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn one_other_caller_approves_what_a_known_requester_asked_for() {
        let approved = usual().changed(&request(Some(caller(1, 0))), caller(2, 0), Word::Approve);
        assert_eq!(approved.state, RequestState::Approved {});
        let document = approved.approval().unwrap();
        document.check().unwrap();
        assert_eq!((document.approved_at, document.expires_at), (at(1), at(13)));
        assert_eq!(document.requester, "arn:aws:sts::111122223333:assumed-role/r1 (AROA1)");
        assert_eq!(document.approvers, ["arn:aws:sts::111122223333:assumed-role/r2 (AROA2)"]);
        assert_eq!(usual().vote(&approved, caller(2, 7), Word::Approve), Ok(Counted::Again), "sent again, under another session's name");
    }

    #[test]
    fn a_caller_who_is_recorded_twice_is_one_approver() {
        let twice = |sessions: [u8; 2]| {
            let votes = sessions.map(|session| Vote { by: caller(2, session), word: Word::Approve, at: at(1), reason: None });
            PromotionRequest { votes: votes.into(), ..request(None) }.approvers().len()
        };
        assert_eq!((twice([0, 0]), twice([0, 1])), (1, 1));
    }

    #[test]
    fn the_requester_cannot_approve_under_any_session_name_and_may_withdraw() {
        let asked = request(Some(caller(1, 0)));
        for session in 0..3 {
            assert!(matches!(usual().vote(&asked, caller(1, session), Word::Approve), Err(ConsentError::OwnRequest { .. })));
        }
        assert_eq!(usual().changed(&asked, caller(1, 2), Word::Deny).state, RequestState::Denied {});
    }

    #[test]
    fn two_different_callers_approve_what_nobody_is_known_to_have_asked_for() {
        let once = usual().changed(&request(None), caller(1, 0), Word::Approve);
        assert_eq!((&once.state, once.approval()), (&RequestState::Waiting {}, None));
        assert_eq!(usual().vote(&once, caller(1, 5), Word::Approve), Ok(Counted::Again));
        let twice = usual().changed(&once, caller(2, 0), Word::Approve);
        assert_eq!(twice.state, RequestState::Approved {});
        let document = twice.approval().unwrap();
        document.check().unwrap();
        assert_eq!((document.requester.as_str(), document.approvers.len()), (UNKNOWN_REQUESTER, 2));
    }

    #[test]
    fn a_denial_ends_it_even_after_an_approval() {
        let once = usual().changed(&request(None), caller(1, 0), Word::Approve);
        let denied = usual().changed(&once, caller(1, 0), Word::Deny);
        assert_eq!((&denied.state, denied.approval()), (&RequestState::Denied {}, None));
        assert!(matches!(usual().vote(&denied, caller(2, 0), Word::Approve), Err(ConsentError::Closed { .. })));
    }

    #[test]
    fn an_approval_of_anything_else_does_not_count() {
        let asked = request(Some(caller(1, 0)));
        let refused = |change: &dyn Fn(&mut Case)| {
            let mut case = usual();
            change(&mut case);
            case.vote(&asked, caller(2, 0), Word::Approve).unwrap_err()
        };
        assert!(matches!(refused(&|c| c.now = at(24)), ConsentError::Expired { .. }));
        assert!(matches!(refused(&|c| c.certificate = Some(Sha256::of(b"x"))), ConsentError::OtherCertificate { .. }));
        assert!(matches!(refused(&|c| c.certificate = None), ConsentError::OtherCertificate { .. }));
        assert!(matches!(refused(&|c| c.newest = id("20261122T030000Z-0001")), ConsentError::Superseded { .. }));
        assert!(matches!(
            refused(&|c| c.incarnation = Some("20261122T030000Z-0001".parse().unwrap())),
            ConsentError::NewIncarnation { .. }
        ));
        assert!(matches!(refused(&|c| c.incarnation = None), ConsentError::NewIncarnation { .. }));
        let mut drilling = asked.clone();
        drilling.state = RequestState::Drilling {};
        assert!(matches!(usual().vote(&drilling, caller(2, 0), Word::Approve), Err(ConsentError::NotAsked(_))));
        assert_eq!(usual().changed(&drilling, caller(1, 0), Word::Deny).state, RequestState::Denied {}, "withdrawn before its drill ended");
    }

    #[test]
    fn only_what_was_approved_is_promoted_and_only_while_it_holds() {
        let approved = usual().changed(&request(Some(caller(1, 0))), caller(2, 0), Word::Approve);
        let [plan, report] = ["plan", "report"].map(|name| document(name).sha256);
        let good = Shown {
            approval: Sha256::of(&approved.approval().unwrap().to_bytes()),
            certificate: usual().certificate.unwrap(),
            plan,
            report,
        };
        let host: HostId = "db-1".parse().unwrap();
        let case = usual();
        assert_eq!(approved.may_promote(good, &host, case.situation()), Ok(()));
        let other = Sha256::of(b"other");
        for (name, shown) in [
            ("approval", Shown { approval: other, ..good }),
            ("certificate", Shown { certificate: other, ..good }),
            ("plan", Shown { plan: other, ..good }),
            ("report", Shown { report: other, ..good }),
        ] {
            let refused = approved.may_promote(shown, &host, case.situation());
            assert!(matches!(refused, Err(ConsentError::OtherDocument { what, .. }) if what == name), "{name}: {refused:?}");
        }
        let elsewhere = "db-2".parse().unwrap();
        assert!(matches!(approved.may_promote(good, &elsewhere, case.situation()), Err(ConsentError::OtherHost { .. })));
        let late = Case { now: at(13), ..usual() };
        assert!(matches!(approved.may_promote(good, &host, late.situation()), Err(ConsentError::Expired { .. })));
        let newer = Case { newest: id("20261122T030000Z-0001"), ..usual() };
        assert!(matches!(approved.may_promote(good, &host, newer.situation()), Err(ConsentError::Superseded { .. })));
        let waiting = request(Some(caller(1, 0)));
        assert!(matches!(waiting.may_promote(good, &host, case.situation()), Err(ConsentError::NotApproved { .. })));
    }

    proptest! {
        /// Whatever anybody sends, in any order and as often as they like.
        #[test]
        fn no_history_of_votes_lets_one_person_promote_alone(
            requester in prop::option::of(0u8..3),
            approvers in 1u32..4,
            votes in prop::collection::vec((0u8..5, 0u8..3, prop::bool::weighted(0.8), 0i64..30, prop::bool::weighted(0.8)), 0..12),
        ) {
            let mut request = request(requester.map(|role| caller(role, 0)));
            request.question.as_mut().unwrap().approvers = approvers;
            let mut yes = std::collections::BTreeSet::new();
            let mut denied = false;
            for (role, session, approve, hour, certificate) in votes {
                let mut case = Case { now: at(hour), ..usual() };
                if !certificate {
                    case.certificate = None;
                }
                let before = request.clone();
                let word = if approve { Word::Approve } else { Word::Deny };
                match case.vote(&request, caller(role, session), word) {
                    Ok(Counted::Changed(after)) => {
                        prop_assert_eq!(before.state, RequestState::Waiting {}, "what is closed stays as it is");
                        prop_assert_eq!(after.votes.len(), before.votes.len() + 1, "every vote that counts is recorded");
                        prop_assert!(!approve || (hour < 24 && certificate && requester != Some(role)));
                        if approve { yes.insert(role); } else { denied = true; }
                        request = *after;
                    }
                    Ok(Counted::Again) => prop_assert!(before.votes.iter().any(|v| v.by.is(&caller(role, 9)) && v.word == word)),
                    Err(_) => {}
                }
                let enough = yes.len() >= approvers as usize + usize::from(requester.is_none());
                prop_assert_eq!(request.state == RequestState::Approved {}, enough && !denied);
                prop_assert_eq!(request.approval().is_some(), enough && !denied);
                if let Some(document) = request.approval() {
                    prop_assert!(document.check().is_ok());
                }
            }
        }
    }
}
