//! Makes the page to sign: everything that a policy allows, as tables, and the verdicts on its
//! assertions.

mod page;
mod render;
mod tables;

use crate::sound::Sound;

pub use page::Page;

/// The form of the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShowFormat {
    /// For a terminal.
    Text,
    /// For a review.
    Markdown,
    /// A self-contained page with the graph, which can be printed.
    Html,
}

impl Sound {
    /// Returns the page to sign.
    #[must_use]
    pub fn page(&self) -> Page {
        Page {
            image: self.policy.image.name.clone(),
            file: self.file.clone(),
            hash: self.hash,
            tables: tables::tables(self),
            verdicts: self.verdicts(),
        }
    }

    /// Renders the page to sign.
    #[must_use]
    pub fn show(&self, format: ShowFormat) -> String {
        let page = self.page();
        match format {
            ShowFormat::Text => render::text(&page),
            ShowFormat::Markdown => render::markdown(&page),
            ShowFormat::Html => render::html(&page, &self.graph().svg()),
        }
    }
}
