//! `tidegate:storage/redis`: commands on a Redis connector, and their replies.

use std::collections::VecDeque;

use tidegate_event::{Reply, ReplyError, StorageError};

use crate::bindings::tidegate::storage::redis::{Host, Node, Span};
use crate::bindings::tidegate::storage::types::{Error, Failure};
use crate::state::State;

/// Commands of one call, which counts as one: what a guest may do in an event stays bounded.
const MAX_COMMANDS: usize = 1_000;

/// A reply as a guest gets it: level by level, so that the children of a node are neighbours.
fn nodes(reply: Reply) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut queue = VecDeque::from([reply]);
    while let Some(reply) = queue.pop_front() {
        // Behind this node come those that wait already, then its own.
        let first = nodes.len() + 1 + queue.len();
        let span = |count: usize| Span { first: number(first), count: number(count) };
        nodes.push(match reply {
            Reply::Nil => Node::Nil,
            Reply::Integer(value) => Node::Integer(value),
            Reply::Double(value) => Node::Double(value),
            Reply::Boolean(value) => Node::Boolean(value),
            Reply::Status(text) => Node::Status(text),
            Reply::Bytes(bytes) => Node::Bytes(bytes),
            Reply::List(list) => {
                let span = span(list.len());
                queue.extend(list);
                Node::List(span)
            }
            Reply::Map(pairs) => {
                let span = span(pairs.len() * 2);
                queue.extend(pairs.into_iter().flat_map(<[Reply; 2]>::from));
                Node::Map(span)
            }
            Reply::Error(error) => Node::Error(failure(error)),
        });
    }
    nodes
}

/// Places fit: a store bounds the bytes of a result far below.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

fn failure(ReplyError { code, message, retryable }: ReplyError) -> Failure {
    Failure { code, message, retryable }
}

impl State {
    /// Runs a command; a refusal is an error.
    pub(super) async fn run_command(
        &mut self,
        connector: &str,
        command: Vec<Vec<u8>>,
    ) -> Result<Reply, Error> {
        match self.run_commands(connector, vec![command]).await?.pop() {
            Some(Reply::Error(error)) => Err(Error::Failed(failure(error))),
            Some(reply) => Ok(reply),
            // A store gives a reply to every command.
            None => Err(Error::Unavailable),
        }
    }

    /// Runs commands; refusals are replies.
    pub(super) async fn run_commands(
        &mut self,
        connector: &str,
        commands: Vec<Vec<Vec<u8>>>,
    ) -> Result<Vec<Reply>, StorageError> {
        self.count_storage_op()?;
        let shared = self.shared.clone();
        let connector = shared.grants.resolve(connector)?;
        if commands.len() > MAX_COMMANDS {
            let words =
                format!("{} commands in one call: at most {MAX_COMMANDS} are possible", commands.len());
            return Err(StorageError::InvalidArgument(words));
        }
        shared.services.storage.commands(&shared.tenant, connector, commands).await
    }
}

impl Host for State {
    async fn command(
        &mut self,
        connector: String,
        command: Vec<Vec<u8>>,
    ) -> wasmtime::Result<Result<Vec<Node>, Error>> {
        Ok(self.run_command(&connector, command).await.map(nodes))
    }

    async fn pipeline(
        &mut self,
        connector: String,
        commands: Vec<Vec<Vec<u8>>>,
    ) -> wasmtime::Result<Result<Vec<Vec<Node>>, Error>> {
        let replies = self.run_commands(&connector, commands).await;
        Ok(replies.map(|replies| replies.into_iter().map(nodes).collect()).map_err(Error::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(reply: Reply) -> String {
        let one = |node: Node| match node {
            Node::Nil => "nil".to_owned(),
            Node::Integer(value) => value.to_string(),
            Node::Double(value) => value.to_string(),
            Node::Boolean(value) => value.to_string(),
            Node::Status(text) => text,
            Node::Bytes(bytes) => format!("{bytes:?}"),
            Node::List(Span { first, count }) => format!("list {first}+{count}"),
            Node::Map(Span { first, count }) => format!("map {first}+{count}"),
            Node::Error(failure) => format!("{} {} {}", failure.code, failure.message, failure.retryable),
        };
        nodes(reply).into_iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_plain_value_is_one_node_and_a_plain_list_is_followed_by_its_elements() {
        assert_eq!(shown(Reply::Nil), "nil");
        assert_eq!(shown(Reply::Bytes(vec![0, 255])), "[0, 255]");
        let refused = ReplyError { code: "ERR".into(), message: "no".into(), retryable: false };
        assert_eq!(shown(Reply::Error(refused)), "ERR no false");
        let list = vec![Reply::Integer(-1), Reply::Status("OK".into()), Reply::Boolean(true)];
        assert_eq!(shown(Reply::List(list)), "list 1+3, -1, OK, true");
        assert_eq!(shown(Reply::List(Vec::new())), "list 1+0");
    }

    #[test]
    fn the_children_of_every_node_are_neighbours() {
        let pair = |key: i64, value| (Reply::Integer(key), value);
        let reply = Reply::List(vec![
            Reply::List(vec![Reply::Integer(1), Reply::List(vec![Reply::Integer(2)])]),
            Reply::Nil,
            Reply::Map(vec![pair(3, Reply::List(vec![Reply::Double(0.5)])), pair(4, Reply::Nil)]),
        ]);
        assert_eq!(
            shown(reply),
            "list 1+3, list 4+2, nil, map 6+4, 1, list 10+1, 3, list 11+1, 4, nil, 2, 0.5"
        );
    }
}
