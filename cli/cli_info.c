int cli_info(int argc, char **argv);
int cli_info(int argc, char **argv){(void)argc;(void)argv;return 0;}
