//! What `reconcile` does about drills: the rules. A drill whose execution ended without a result is closed, one whose instance is
//! gone need not wait for its heartbeat, and no instance outlives its drill.

use jiff::{SignedDuration, Timestamp};

/// EC2 lists an instance at the latest so long after its launch.
const LISTED_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// An instance whose drill the catalog does not know is spared for so long: the catalog may just be being rebuilt.
const UNKNOWN_SPARED: SignedDuration = SignedDuration::from_mins(15);

/// Beyond the drill's own time-out: the machine's retries, and the instance's own clock.
const GRACE: SignedDuration = SignedDuration::from_hours(1);

/// What is known of an open drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenDrill {
    /// Whether its execution still runs.
    pub execution_runs: bool,
    /// Its instance, where one was launched: how EC2 shows it, and since when it is known.
    pub instance: Option<(Seen, Timestamp)>,
}

/// How EC2 shows an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It works, or may.
    Alive,
    /// It is ending, or has ended.
    Ending,
    /// It is not listed.
    Absent,
}

/// What to do about an open drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Nothing.
    Wait,
    /// Nobody will record a result any more: it failed.
    Close(&'static str),
    /// Tell the execution that its instance will never answer. If it has answered before, nobody waits for this.
    FailTask(&'static str),
}

/// What to do about an open drill.
pub fn care(drill: OpenDrill, now: Timestamp) -> Care {
    match drill {
        OpenDrill { execution_runs: false, .. } => {
            Care::Close("its execution has ended and recorded no result: it was aborted, or ran out of time")
        }
        OpenDrill { instance: Some((Seen::Ending, _)), .. } => Care::FailTask("its instance has ended"),
        OpenDrill { instance: Some((Seen::Absent, since)), .. } if now.duration_since(since) > LISTED_WITHIN => {
            Care::FailTask("its instance is gone")
        }
        OpenDrill { .. } => Care::Wait,
    }
}

/// Whose an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// No drill that the catalog knows.
    Unknown,
    /// A drill whose result is known.
    Ended,
    /// A drill that may run so many hours.
    Open {
        /// `drill.timeout_hours` of its cluster.
        timeout_hours: u32,
    },
}

/// Why an instance that has not ended must end now, if it must.
pub fn leaked(owner: Owner, launched_at: Timestamp, now: Timestamp) -> Option<&'static str> {
    let age = now.duration_since(launched_at);
    match owner {
        Owner::Ended => Some("its drill has ended"),
        Owner::Unknown => (age > UNKNOWN_SPARED).then_some("the catalog knows no drill of it"),
        Owner::Open { timeout_hours } => {
            (age > SignedDuration::from_hours(timeout_hours.into()) + GRACE).then_some("it is older than its drill may be")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes)
    }

    #[test]
    fn an_open_drill_is_closed_hurried_or_left_alone() {
        let runs = |instance| care(OpenDrill { execution_runs: true, instance }, at(20));
        assert_eq!(runs(None), Care::Wait, "not launched yet");
        assert_eq!(runs(Some((Seen::Alive, at(0)))), Care::Wait);
        assert_eq!(runs(Some((Seen::Absent, at(15)))), Care::Wait, "it may not be listed yet");
        assert!(matches!(runs(Some((Seen::Absent, at(0)))), Care::FailTask(_)));
        assert!(matches!(runs(Some((Seen::Ending, at(19)))), Care::FailTask(_)));
        for instance in [None, Some((Seen::Alive, at(0))), Some((Seen::Ending, at(0)))] {
            assert!(matches!(care(OpenDrill { execution_runs: false, instance }, at(20)), Care::Close(_)));
        }
    }

    #[test]
    fn no_instance_outlives_its_drill() {
        assert!(leaked(Owner::Ended, at(0), at(0)).is_some(), "at once");
        assert!(leaked(Owner::Unknown, at(0), at(15)).is_none() && leaked(Owner::Unknown, at(0), at(16)).is_some());
        let open = Owner::Open { timeout_hours: 8 };
        assert!(leaked(open, at(0), at(9 * 60)).is_none() && leaked(open, at(0), at(9 * 60 + 1)).is_some());
    }
}
