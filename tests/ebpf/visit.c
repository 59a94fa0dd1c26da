/* visit PORT: listens there on the loopback address, connects, says nothing and is gone. visit PORT udp: sends a datagram there
 * by a socket that is not connected. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    if (count < 2)
        return 64;
    at.sin_port = htons(atoi(words[1]));
    if (count > 2)
        return sendto(socket(AF_INET, SOCK_DGRAM, 0), "asked", 5, 0, (void *)&at, sizeof(at)) != 5;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener, (void *)&at, sizeof(at)) || listen(listener, 8))
        return 1;
    return connect(client, (void *)&at, sizeof(at)) ? 2 : 0;
}
