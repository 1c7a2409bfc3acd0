"""The families gradscope builds: cells in plain operations with closed-form linear maps, and attention."""
