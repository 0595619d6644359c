//! Typed items in a DynamoDB table with the keys `pk` and `sk`: consistent reads, conditional transactions.
//!
//! Relies on: strongly consistent reads of the table (never of the index), all-or-nothing transactions whose repetition
//! with the same client token is one transaction (the SDK sends one), and the item that refused a condition in the answer.
//! Retries: the SDK's, and five of ours when another transaction touches the same item at that moment.

use crate::call::{CallError, CallErrorKind};
use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use highwater_core::ClusterId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::time::Duration;

/// An item as DynamoDB holds it.
pub type Item = HashMap<String, AttributeValue>;

/// One table.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    name: String,
}

/// An item's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Partition.
    pub pk: String,
    /// Sort key.
    pub sk: String,
}

impl Key {
    /// An item of a cluster. Everything of one cluster lies in one partition.
    pub fn of(cluster: &ClusterId, sk: impl Into<String>) -> Self {
        Self { pk: partition(cluster), sk: sk.into() }
    }

    /// The key of an item.
    fn of_item(item: &Item) -> Self {
        Self { pk: text_of(item, "pk").to_owned(), sk: text_of(item, "sk").to_owned() }
    }

    /// That what lies here is not what this code wrote.
    pub(crate) fn unreadable(&self, reason: impl ToString) -> TableError {
        TableError::Unreadable { pk: self.pk.clone(), sk: self.sk.clone(), reason: reason.to_string() }
    }

    fn item(&self) -> Item {
        let text = |s: &str| AttributeValue::S(s.to_owned());
        Item::from([("pk".to_owned(), text(&self.pk)), ("sk".to_owned(), text(&self.sk))])
    }
}

/// A record that says itself where it belongs.
pub trait Record: DeserializeOwned {
    /// The one format that this code reads.
    const FORMAT: &'static str;

    /// Where it belongs.
    fn place(&self) -> Key;

    /// What it is, for errors: `drill 20261122T015900Z-4f7c90ab of orders`.
    fn name(&self) -> String;
}

/// The partition of a cluster.
pub fn partition(cluster: &ClusterId) -> String {
    format!("cluster#{cluster}")
}

/// Why items were not read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A condition did not hold; nothing was written.
    #[error("write {index} of the transaction was refused by its condition")]
    Condition {
        /// Which write, from zero, in the order given.
        index: usize,
        /// The item as it stands, if it exists.
        found: Option<Item>,
    },
    /// An item is not what this code wrote.
    #[error("the item {pk} {sk} cannot be read: {reason}")]
    Unreadable {
        /// Partition.
        pk: String,
        /// Sort key.
        sk: String,
        /// Why not.
        reason: String,
    },
    /// The service.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// One write of a transaction, with the condition under which alone the transaction happens.
#[derive(Debug, Clone)]
pub struct Write {
    key: Key,
    action: Action,
    condition: Option<String>,
    names: HashMap<String, String>,
    values: Item,
}

#[derive(Debug, Clone)]
enum Action {
    Put(Item),
    Update(String),
    Delete,
    Check,
}

impl Write {
    fn new(key: Key, action: Action) -> Self {
        Self { key, action, condition: None, names: HashMap::new(), values: Item::new() }
    }

    /// Puts a whole item.
    ///
    /// # Errors
    /// `Unreadable` when the record has no form as an item.
    pub fn put<T: Serialize>(key: Key, record: &T) -> Result<Self, TableError> {
        let mut item: Item = serde_dynamo::to_item(record).map_err(|e| key.unreadable(e))?;
        item.extend(key.item());
        Ok(Self::new(key, Action::Put(item)))
    }

    /// Creates an item: as [`Write::put`], only if there is none.
    ///
    /// # Errors
    /// As [`Write::put`].
    pub fn create<T: Serialize>(key: Key, record: &T) -> Result<Self, TableError> {
        Ok(Self::put(key, record)?.only_if("attribute_not_exists(pk)"))
    }

    /// Changes attributes: an update expression. Names of attributes are written `#name`; they need no declaration.
    pub fn update(key: Key, expression: impl Into<String>) -> Self {
        Self::new(key, Action::Update(expression.into()))
    }

    /// Deletes an item. Only `prune` may.
    pub fn delete(key: Key) -> Self {
        Self::new(key, Action::Delete)
    }

    /// Only a condition.
    pub fn check(key: Key, condition: impl Into<String>) -> Self {
        Self::new(key, Action::Check).only_if(condition)
    }

    /// The condition.
    #[must_use]
    pub fn only_if(mut self, condition: impl Into<String>) -> Self {
        self.condition = Some(condition.into());
        self
    }

    /// A value that the expressions name, like `:token`.
    ///
    /// # Errors
    /// `Unreadable` when the value has no form as an attribute.
    pub fn value<T: Serialize>(mut self, name: &str, value: T) -> Result<Self, TableError> {
        let value = serde_dynamo::to_attribute_value(value).map_err(|e| self.key.unreadable(e))?;
        self.values.insert(name.to_owned(), value);
        Ok(self)
    }

    /// Declares every `#name` in the expressions: no attribute can collide with a reserved word then.
    fn declare_names(&mut self) {
        let update = match &self.action {
            Action::Update(expression) => expression.as_str(),
            _ => "",
        };
        self.names = names_in(&format!("{update} {}", self.condition.as_deref().unwrap_or_default()));
    }

    fn into_item(mut self, table: &str) -> Result<TransactWriteItem, aws_sdk_dynamodb::error::BuildError> {
        self.declare_names();
        let (names, values) = (Some(self.names).filter(|n| !n.is_empty()), Some(self.values).filter(|v| !v.is_empty()));
        let old = ReturnValuesOnConditionCheckFailure::AllOld;
        let (key, table) = (Some(self.key.item()), table.to_owned());
        let item = TransactWriteItem::builder();
        Ok(match self.action {
            Action::Put(record) => item.put(
                Put::builder()
                    .table_name(table)
                    .set_item(Some(record))
                    .set_condition_expression(self.condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(old)
                    .build()?,
            ),
            Action::Update(expression) => item.update(
                Update::builder()
                    .table_name(table)
                    .set_key(key)
                    .update_expression(expression)
                    .set_condition_expression(self.condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(old)
                    .build()?,
            ),
            Action::Delete => item.delete(
                Delete::builder()
                    .table_name(table)
                    .set_key(key)
                    .set_condition_expression(self.condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(old)
                    .build()?,
            ),
            Action::Check => item.condition_check(
                ConditionCheck::builder()
                    .table_name(table)
                    .set_key(key)
                    .set_condition_expression(self.condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(old)
                    .build()?,
            ),
        }
        .build())
    }
}

/// A query of one partition, by sort key. Strongly consistent.
#[derive(Debug, Clone)]
pub struct Range {
    /// Partition.
    pub pk: String,
    /// First sort key, included.
    pub from: String,
    /// Last sort key, included.
    pub to: String,
    /// The greatest first.
    pub backwards: bool,
    /// At most so many items; zero means all of them.
    pub limit: usize,
}

impl Range {
    /// Every item whose sort key begins with `prefix`, in order.
    pub fn prefixed(cluster: &ClusterId, prefix: &str) -> Self {
        Self { pk: partition(cluster), from: prefix.to_owned(), to: format!("{prefix}\u{10ffff}"), backwards: false, limit: 0 }
    }

    /// Turned round, and cut to `limit`.
    #[must_use]
    pub fn last(mut self, limit: usize) -> Self {
        (self.backwards, self.limit) = (true, limit);
        self
    }
}

impl Table {
    /// The table `name`.
    pub fn new(config: &SdkConfig, name: impl Into<String>) -> Self {
        Self { client: Client::new(config), name: name.into() }
    }

    /// Reads one record, strongly consistent.
    ///
    /// # Errors
    /// Those of [`read_record`]; those of the service.
    pub async fn record<R: Record>(&self, key: &Key) -> Result<Option<R>, TableError> {
        self.item(key).await?.map(read_record).transpose()
    }

    /// Reads the records of a range of one partition, strongly consistent, all pages.
    ///
    /// # Errors
    /// Those of [`read_record`]; those of the service.
    pub async fn records<R: Record>(&self, range: Range) -> Result<Vec<R>, TableError> {
        self.items(range, &[]).await?.into_iter().map(read_record).collect()
    }

    /// Reads one item, strongly consistent.
    ///
    /// # Errors
    /// `Unreadable`; those of the service.
    pub async fn get<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, TableError> {
        self.item(key).await?.map(read).transpose()
    }

    async fn item(&self, key: &Key) -> Result<Option<Item>, TableError> {
        let sent = self.client.get_item().table_name(&self.name).set_key(Some(key.item())).consistent_read(true).send().await;
        let answer = sent.map_err(|e| CallError::of("dynamodb:GetItem", format!("{} {}", key.pk, key.sk), e))?;
        Ok(answer.item)
    }

    /// Reads a range of one partition, strongly consistent, all pages.
    ///
    /// # Errors
    /// `Unreadable`; those of the service.
    pub async fn query<T: DeserializeOwned>(&self, range: Range) -> Result<Vec<T>, TableError> {
        self.query_for(range, &[]).await
    }

    /// As [`Table::query`], but of each item only these attributes and its key; all where none is named.
    ///
    /// # Errors
    /// As [`Table::query`].
    pub async fn query_for<T: DeserializeOwned>(&self, range: Range, attributes: &[&str]) -> Result<Vec<T>, TableError> {
        self.items(range, attributes).await?.into_iter().map(read).collect()
    }

    async fn items(&self, range: Range, attributes: &[&str]) -> Result<Vec<Item>, TableError> {
        let projection = attributes.iter().chain(&["pk", "sk"]).map(|name| format!("#{name}")).collect::<Vec<_>>().join(", ");
        let projection = Some(projection).filter(|_| !attributes.is_empty());
        let text = |s: &str| AttributeValue::S(s.to_owned());
        let mut pages = self
            .client
            .query()
            .table_name(&self.name)
            .consistent_read(true)
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .set_expression_attribute_names(projection.as_deref().map(names_in))
            .set_projection_expression(projection)
            .expression_attribute_values(":pk", text(&range.pk))
            .expression_attribute_values(":from", text(&range.from))
            .expression_attribute_values(":to", text(&range.to))
            .scan_index_forward(!range.backwards)
            .set_limit(i32::try_from(range.limit).ok().filter(|n| *n > 0))
            .into_paginator()
            .items()
            .send();
        let mut found = Vec::new();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|e| CallError::of("dynamodb:Query", format!("{} {}..{}", range.pk, range.from, range.to), e))?;
            found.push(item);
            if range.limit > 0 && found.len() == range.limit {
                break;
            }
        }
        Ok(found)
    }

    /// The items whose `open` attribute is `kind`, from the sparse index of that name: eventually consistent, so a
    /// caller has to read an item itself before it acts on it. One that is `Unreadable` stands among the others.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn open<R: Record>(&self, kind: &str) -> Result<Vec<Result<R, TableError>>, TableError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.name)
            .index_name("open")
            .key_condition_expression("#open = :kind")
            .expression_attribute_names("#open", "open")
            .expression_attribute_values(":kind", AttributeValue::S(kind.to_owned()))
            .into_paginator()
            .items()
            .send();
        let mut found = Vec::new();
        while let Some(item) = pages.next().await {
            found.push(read_record(item.map_err(|e| CallError::of("dynamodb:Query", format!("index open, {kind}"), e))?));
        }
        Ok(found)
    }

    /// Writes all or nothing, at most 100 items.
    ///
    /// # Errors
    /// `Condition` names the first write whose condition did not hold; those of the service.
    pub async fn write(&self, writes: Vec<Write>) -> Result<(), TableError> {
        let subject = || self.name.clone();
        let items: Vec<_> = writes.into_iter().map(|w| w.into_item(&self.name)).collect::<Result<_, _>>().map_err(|e| CallError {
            operation: "dynamodb:TransactWriteItems",
            subject: subject(),
            kind: CallErrorKind::Refused,
            code: String::new(),
            detail: e.to_string(),
        })?;
        for attempt in 0..5u32 {
            let error = match self.client.transact_write_items().set_transact_items(Some(items.clone())).send().await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some((index, found)) = refused(&error) {
                return Err(TableError::Condition { index, found });
            }
            if !conflicted(&error) {
                return Err(CallError::of("dynamodb:TransactWriteItems", subject(), error).into());
            }
            tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
        }
        Err(CallError {
            operation: "dynamodb:TransactWriteItems",
            subject: subject(),
            kind: CallErrorKind::Unavailable,
            code: "TransactionConflict".into(),
            detail: "other transactions kept touching the same items".into(),
        }
        .into())
    }
}

/// An item as a record.
///
/// # Errors
/// `Unreadable`.
pub fn read<T: DeserializeOwned>(item: Item) -> Result<T, TableError> {
    let key = Key::of_item(&item);
    serde_dynamo::from_item(item).map_err(|e| key.unreadable(e))
}

/// An item as a record that says itself where it belongs.
///
/// # Errors
/// `Unreadable`, also for the record of another place or format.
pub fn read_record<R: Record>(item: Item) -> Result<R, TableError> {
    let key = Key::of_item(&item);
    // First: one of another format need not be readable at all.
    let format = text_of(&item, "format");
    if format != R::FORMAT {
        return Err(key.unreadable(format!("its format is {format:?}, expected {:?}", R::FORMAT)));
    }
    let record: R = read(item)?;
    if key != record.place() {
        return Err(key.unreadable(format!("it is the record of {}", record.name())));
    }
    Ok(record)
}

/// An attribute of text; empty without it.
fn text_of<'a>(item: &'a Item, name: &str) -> &'a str {
    item.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str)
}

type Cancelled = SdkError<TransactWriteItemsError>;

fn reasons(error: &Cancelled) -> &[aws_sdk_dynamodb::types::CancellationReason] {
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled.cancellation_reasons(),
        _ => &[],
    }
}

fn refused(error: &Cancelled) -> Option<(usize, Option<Item>)> {
    let failed = |r: &&aws_sdk_dynamodb::types::CancellationReason| r.code() == Some("ConditionalCheckFailed");
    let index = reasons(error).iter().position(|r| failed(&r))?;
    Some((index, reasons(error).get(index).and_then(|r| r.item.clone())))
}

fn conflicted(error: &Cancelled) -> bool {
    reasons(error).iter().any(|r| r.code() == Some("TransactionConflict"))
}

/// Every `#name` of an expression, declared as the attribute `name`.
fn names_in(expression: &str) -> HashMap<String, String> {
    expression
        .split('#')
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>())
        .filter(|name| !name.is_empty())
        .map(|name| (format!("#{name}"), name))
        .collect()
}
