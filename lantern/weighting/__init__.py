"""The learned merge of vanilla and refined predictions. ``config`` needs no torch; the rest does."""
