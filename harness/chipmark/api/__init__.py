"""The public objects behind `import chipmark`; commands are thin callers of them."""
