//! One line of the log, as far as `show` needs it: when, the message, and what filters look at.
//! Knows nothing of the writer's types; every other field is skipped without being built.
//! Field names: portreeve-events(5), which are the Elastic Common Schema's.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, Visitor};

use super::notice::Flaw;

#[derive(Debug, serde::Deserialize)]
pub(super) struct Record<'a> {
    #[serde(rename = "@timestamp", borrow)]
    timestamp: Keyword<'a>,
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    #[serde(borrow)]
    pub event: Option<Event<'a>>,
    #[serde(borrow)]
    pub source: Option<End<'a>>,
    #[serde(borrow)]
    pub destination: Option<End<'a>>,
    #[serde(borrow)]
    pub user: Option<User<'a>>,
    #[serde(borrow)]
    pub process: Option<Process<'a>>,
    #[serde(borrow)]
    pub portreeve: Option<Portreeve<'a>>,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Event<'a> {
    #[serde(borrow)]
    pub action: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub id: Option<Keyword<'a>>,
}

/// `source` or `destination`.
#[derive(Debug, serde::Deserialize)]
pub(super) struct End<'a> {
    #[serde(borrow)]
    ip: Option<Keyword<'a>>,
    pub port: Option<u16>,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct User<'a> {
    #[serde(borrow)]
    pub id: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub effective: Option<Effective<'a>>,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Effective<'a> {
    #[serde(borrow)]
    pub id: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Process<'a> {
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub executable: Option<Keyword<'a>>,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Portreeve<'a> {
    #[serde(borrow)]
    pub connection: Option<Connection<'a>>,
    #[serde(borrow)]
    pub login: Option<Login<'a>>,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Connection<'a> {
    #[serde(borrow)]
    pub id: Option<Keyword<'a>>,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Login<'a> {
    #[serde(borrow)]
    pub uid: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
}

impl<'a> Record<'a> {
    /// Parses a line that is one record and nothing else.
    pub fn parse(line: &'a str) -> Result<(Timestamp, Record<'a>), Flaw> {
        let record: Record<'a> = parse_object(line)?;
        let at = record.timestamp.as_str().parse().map_err(|_| Flaw::NoRecord)?;
        Ok((at, record))
    }

    /// `portreeve.connection.id`. `None`: the record is about no connection.
    pub fn connection_id(&self) -> Option<&str> {
        self.portreeve.as_ref()?.connection.as_ref()?.id.as_ref().map(Keyword::as_str)
    }

    /// Whether its user and its process are those of something that was watched: not of the watch itself.
    pub fn tells_who(&self) -> bool {
        let action = self.event.as_ref().and_then(|event| event.action.as_ref()).map(Keyword::as_str);
        self.connection_id().is_some()
            || matches!(action, Some("process-started" | "process-ended" | "file-changed"))
    }
}

/// Parses a line that is one object and nothing else.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, Flaw> {
    let object = serde_json::from_str(line).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Flaw::NoRecord,
        _ => Flaw::NoJson { column: error.column() },
    })?;
    // A list of the right values would do for serde.
    if line.trim_start().starts_with('{') { Ok(object) } else { Err(Flaw::NoRecord) }
}

impl End<'_> {
    /// `None` where the field is absent or no address.
    pub fn address(&self) -> Option<IpAddr> {
        self.ip.as_ref()?.as_str().parse().ok()
    }
}

/// A keyword. A number is taken as its digits: other programs that touch logs write ids either way.
#[derive(Debug)]
pub(crate) struct Keyword<'a>(Cow<'a, str>);

impl Keyword<'_> {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Keyword<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Keyword<'a>, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = Keyword<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a keyword")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Keyword<'de>, E> {
                Ok(Keyword(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Keyword<'de>, E> {
                Ok(Keyword(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Keyword<'de>, E> {
                Ok(Keyword(Cow::Owned(number.to_string())))
            }
        }

        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_needed_fields_are_read_and_ids_may_be_numbers() {
        let line = r#"{"@timestamp":"2026-11-20T13:42:50.123456Z","message":"a \u2192 b","user":{"id":1000,"x":[{}]},
            "source":{"ip":"192.0.2.1","port":5},"other":{"deep":[[[1,2,{"a":null}]]]},"event":null}"#;
        let (at, record) = Record::parse(line).unwrap();
        assert_eq!(at, "2026-11-20T13:42:50.123456Z".parse().unwrap());
        assert_eq!(record.message, "a → b");
        assert_eq!(record.user.unwrap().id.unwrap().as_str(), "1000");
        assert_eq!(record.source.unwrap().address(), Some("192.0.2.1".parse().unwrap()));
        assert!(record.event.is_none());
    }

    #[test]
    fn a_flaw_says_what_is_wrong_without_repeating_the_line() {
        let cut = r#"{"@timestamp":"2026-11-20T13:42:50Z","mess"#;
        assert!(matches!(Record::parse(cut), Err(Flaw::NoJson { column: 42 })), "{:?}", Record::parse(cut));
        for no_record in [
            "{}",
            "[]",
            r#"["2026-11-20T13:42:50Z","",null,null,null,null,null,null]"#,
            "1",
            r#"{"@timestamp":"x","message":""}"#,
            r#"{"@timestamp":"2026-11-20T13:42:50Z"}"#,
            r#"{"@timestamp":"2026-11-20T13:42:50Z","message":"","source":{"port":70000}}"#,
        ] {
            assert!(matches!(Record::parse(no_record), Err(Flaw::NoRecord)), "{no_record}");
        }
        let two = r#"{"@timestamp":"2026-11-20T13:42:50Z","message":""}{}"#;
        assert!(matches!(Record::parse(two), Err(Flaw::NoJson { .. })));
    }
}
