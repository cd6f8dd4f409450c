//! The levels below a level of retained topics, in order, so that a walk over them can stop anywhere and go on later.
//!
//! Small on purpose: most levels have few below them, and there are hundreds of thousands.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use super::Node;

/// So many levels are kept side by side; more are kept in a tree.
const FEW: usize = 8;

/// Levels by name.
pub(super) enum Children {
    /// In order.
    Few(Vec<(Box<str>, Node)>),
    Many(BTreeMap<Box<str>, Node>),
}

impl Default for Children {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

fn place(few: &[(Box<str>, Node)], name: &str) -> Result<usize, usize> {
    few.binary_search_by(|(known, _)| (**known).cmp(name))
}

impl Children {
    /// The level `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.get_key(name).map(|(_, child)| child)
    }

    /// The level `name` with its name as it is kept.
    pub(super) fn get_key(&self, name: &str) -> Option<(&str, &Node)> {
        match self {
            Self::Few(few) => few.get(place(few, name).ok()?).map(|(name, child)| (&**name, child)),
            Self::Many(many) => many.get_key_value(name).map(|(name, child)| (&**name, child)),
        }
    }

    /// The level `name`, to change it.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        match self {
            Self::Few(few) => {
                let index = place(few, name).ok()?;
                few.get_mut(index).map(|(_, child)| child)
            }
            Self::Many(many) => many.get_mut(name),
        }
    }

    /// Makes the level `name`, which is missing.
    pub(super) fn insert(&mut self, name: &str) {
        match self {
            Self::Few(few) if few.len() < FEW => {
                if let Err(index) = place(few, name) {
                    few.reserve_exact(1);
                    few.insert(index, (name.into(), Node::default()));
                }
            }
            Self::Few(few) => {
                let mut many: BTreeMap<_, _> = std::mem::take(few).into_iter().collect();
                many.insert(name.into(), Node::default());
                *self = Self::Many(many);
            }
            Self::Many(many) => {
                many.insert(name.into(), Node::default());
            }
        }
    }

    /// Removes the level `name`.
    pub(super) fn remove(&mut self, name: &str) {
        match self {
            Self::Few(few) => {
                if let Ok(index) = place(few, name) {
                    few.remove(index);
                    few.shrink_to_fit();
                }
            }
            Self::Many(many) => {
                many.remove(name);
                if many.len() <= FEW / 2 {
                    *self = Self::Few(std::mem::take(many).into_iter().collect());
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Few(few) if few.is_empty())
    }

    /// Shows `visit` the levels from the one named `first` on, or all, in order, until it breaks off.
    pub(super) fn each<'a>(
        &'a self,
        first: Option<&str>,
        mut visit: impl FnMut(&'a str, &'a Node) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self {
            Self::Few(few) => {
                let index = first.map_or(0, |first| place(few, first).unwrap_or_else(|index| index));
                few.iter().skip(index).try_for_each(|(name, child)| visit(name, child))
            }
            Self::Many(many) => {
                let first = first.map_or(Bound::Unbounded, Bound::Included);
                many.range::<str, _>((first, Bound::Unbounded))
                    .try_for_each(|(name, child)| visit(name, child))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(children: &Children, first: Option<&str>) -> Vec<String> {
        let mut names = Vec::new();
        let end = children.each(first, |name, _| {
            names.push(name.to_owned());
            ControlFlow::Continue(())
        });
        assert!(end.is_continue());
        names
    }

    #[test]
    fn levels_stay_in_order_while_many_come_and_go() {
        let mut children = Children::default();
        let name = |number: usize| format!("{:03}", number * 7 % 100);
        for number in 0..100 {
            assert!(children.get(&name(number)).is_none());
            children.insert(&name(number));
            assert!(children.get_mut(&name(number)).is_some());
            assert!(names(&children, None).is_sorted());
        }
        assert_eq!(names(&children, Some("0975")), ["098", "099"]);
        assert_eq!(names(&children, Some("098")), ["098", "099"]);
        for number in 0..100 {
            assert!(!children.is_empty());
            children.remove(&name(number));
            assert_eq!(names(&children, None).len(), 99 - number);
        }
        assert!(children.is_empty());
    }
}
