//! The rules of the protocol, by name, so that each can be taken away.

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Rule { $($(#[$doc])* $name,)* }

        impl Rule {
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

rules! {
    /// A lease is taken only when it is free or has expired.
    OnlyFreeOrExpiredIsTaken,
    /// Every new holder gets a greater token.
    TokenGrows,
    /// Whether an operation has the lease, its name says too, not only its token.
    HolderIsCompared,
    /// The lease is written only over the one that was read.
    LeaseAsRead,
    /// Only the holder's lease is released.
    ReleaseOnlyOnesOwn,
    /// A backup is requested only in the catalog that the decision was made on.
    RequestAtTheVersionRead,
    /// The head is read before the backups, never after them.
    HeadIsReadFirst,
    /// The next decision knows what failed attempts owe.
    FailuresAreRemembered,
    /// Only an open item is committed, refused or failed.
    OnlyOpenIsFinished,
    /// A commit needs the lease under which the backup was requested.
    CommitWithTheLease,
    /// A commit finds the catalog on which it was judged.
    CommitAtTheVersionRead,
    /// Only what the chain rules admit is committed.
    CommitWhatIsAdmitted,
    /// A manifest is created, never replaced.
    ManifestOnlyOnce,
    /// A host backs up or promotes, one at a time.
    HostDoesOneThing,
    /// The helper asks the server whether it is the one that the parent was taken from.
    HelperKnowsTheParent,
    /// A promotion takes the lease that backups take.
    PromotionTakesTheLease,
    /// After a promotion a new incarnation is owed.
    PromotionBreaksTheChain,
    /// Prune marks only in the catalog that it chose from.
    MarkAtTheVersionRead,
    /// Prune keeps what a kept backup needs.
    NeededIsKept,
    /// Prune keeps the last chain with a passed drill.
    ProvenIsKept,
    /// A passed drill changes the version.
    DrillsCount,
    /// A rebuild writes only into the catalog that it compared with.
    RebuildAtTheVersionRead,
}

/// All rules but these.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    pub(super) without: Vec<Rule>,
}

impl Rules {
    pub(super) fn on(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }
}
