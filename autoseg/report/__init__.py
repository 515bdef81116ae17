"""Pages of HTML that need no network: blocks and templates, charts, pictures of cases, the viewer."""
