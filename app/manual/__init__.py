"""The manual, in Markdown: `index.md` lists its pages."""
